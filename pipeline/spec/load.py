"""From a file to a spec: parse, check everything, fill in defaults, freeze."""

from __future__ import annotations

from pathlib import Path

from pipeline.spec.diagnose import SpecError
from pipeline.spec.document import Document, parse_document, read_document
from pipeline.spec.schema import experiment_schema, resolve
from pipeline.spec.spec import Section, Spec


def load_spec(path: Path | str) -> Spec:
    """Read, check and complete the spec in a YAML or JSON file.

    Raises:
        SpecError: the file cannot be read, or something in it is wrong; says everything at once.
    """
    return _spec(read_document(path))


def parse_spec(raw: bytes, file: str) -> Spec:
    """The same for bytes that are not in a file yet; `file` is the name they get in messages.

    Raises:
        SpecError: something in them is wrong.
    """
    return _spec(parse_document(raw, file))


def _spec(document: Document) -> Spec:
    from pipeline.spec.check import check  # noqa: PLC0415 - jsonschema takes longer to import than a spec to check

    found = check(document)
    if errors := [problem for problem in found if not problem.is_warning]:
        raise SpecError(errors)
    return Spec(Path(document.file), tuple(found), Section("", resolve(experiment_schema(), document.values)))
