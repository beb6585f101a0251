"""From a file to a spec: parse, check everything, fill in defaults, freeze."""

from __future__ import annotations

from pathlib import Path

from pipeline.spec.diagnose import SpecError
from pipeline.spec.document import Document, parse_document, read_document
from pipeline.spec.schema import EXPERIMENT, resolve
from pipeline.spec.spec import Section, Spec


def load_spec(path: Path | str, kind: str | None = EXPERIMENT) -> Spec:
    """Read, check and complete the spec in a YAML or JSON file.

    Args:
        path: the file.
        kind: the kind of document that it must be; None takes every kind.

    Raises:
        SpecError: the file cannot be read, or something in it is wrong; says everything at once.
    """
    return build_spec(read_document(path), kind)


def parse_spec(raw: bytes, file: str, kind: str | None = EXPERIMENT) -> Spec:
    """The same for bytes that are not in a file yet; `file` is the name they get in messages.

    Raises:
        SpecError: something in them is wrong.
    """
    return build_spec(parse_document(raw, file), kind)


def require_supported(spec: Spec, stage: str | None = None) -> None:
    """Refuse a spec that asks for what this version of the toolkit cannot do.

    Args:
        spec: the spec.
        stage: look only at what this stage reads; None looks at everything.

    Raises:
        SpecError: it does.
    """
    asked = [problem for problem in spec.warnings if problem.code == "W0103"]
    read = set(spec.leaves(stage))
    if refused := [problem for problem in asked if problem.path in read]:
        raise SpecError(refused, hint="the spec is right, but this version cannot act upon it: set what `help` says")


def build_spec(document: Document, kind: str | None = EXPERIMENT) -> Spec:
    """The same for a document that has been read.

    Raises:
        SpecError: something in it is wrong.
    """
    from pipeline.spec.check import check  # noqa: PLC0415 - jsonschema takes longer to import than a spec to check

    found = check(document)
    if errors := [problem for problem in found if not problem.is_warning]:
        raise SpecError(errors)
    if kind is not None and document.kind != kind:
        message = f"this is a document of kind {document.kind}, but one of kind {kind} is needed here"
        raise SpecError([document.problem("E0207", message, document.place_of(("kind",)), path="kind")])
    root = Section("", resolve(document.schema, document.values))
    return Spec(Path(document.file), document.kind, tuple(found), root)
