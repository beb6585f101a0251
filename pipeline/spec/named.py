"""The document that a name stands for: a file, standard input, a git revision, or the run that a report tells of."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import FoundryError
from pipeline.paths import DEFAULT_SPEC
from pipeline.spec.document import Document, parse_document, read_document
from pipeline.spec.load import build_spec
from pipeline.spec.spec import Spec

_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True)
class Named:
    """A document that was found, with its text as it was written."""

    name: str
    spec: Spec
    document: Document


def open_named(name: str) -> Named:
    """Find, read and check a document of any kind.

    Args:
        name: in this order: `-` for standard input; the file of a document, or of a report that holds a run's
            configuration; `REVISION:PATH` as git has it; a git revision alone, which stands for
            specs/experiment.yaml there.

    Raises:
        SpecError: what the name stands for is not a right document.
        FoundryError: the name stands for nothing.
    """
    document = _document(name)
    return Named(name, build_spec(document, kind=None), document)


def _document(name: str) -> Document:
    if name == "-":
        return _parsed(sys.stdin.buffer.read(), "standard input")
    path = Path(name)
    if path.is_file():
        return _parsed(path.read_bytes(), name) if path.suffix == ".json" else read_document(path)
    if path.exists() or (path.suffix in _SUFFIXES and ":" not in name):
        return read_document(path)  # which says what is wrong with it
    # `./` is the folder one is in, which need not be the top of the repository.
    revision, colon, file = name.partition(":")
    wanted = name if colon else f"{revision}:./{DEFAULT_SPEC}"
    return _parsed(_from_git(revision, wanted, name), f"{revision}:{file or DEFAULT_SPEC}")


def _parsed(raw: bytes, file: str) -> Document:
    """A document, or the one inside a report of a run."""
    try:
        values = json.loads(raw)
    except (ValueError, RecursionError):
        return parse_document(raw, file)
    if isinstance(values, dict) and isinstance(values.get("configuration"), dict):
        return parse_document(json.dumps(values["configuration"], indent=2).encode(), f"{file} (configuration)")
    return parse_document(raw, file)


def _from_git(revision: str, wanted: str, name: str) -> bytes:
    known = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if known.returncode != 0:
        raise FoundryError(
            f"`{name}` is no file here and no git revision",
            hint="name a spec file, `-`, REVISION:PATH like HEAD~1:specs/experiment.yaml, or a revision alone",
        )
    shown = _git("show", "--end-of-options", wanted)
    if shown.returncode != 0:
        reason = shown.stderr.decode("utf-8", "replace").strip().removeprefix("fatal: ")
        raise FoundryError(
            f"git does not have `{wanted}`: {reason}", hint=f"`git ls-tree -r {revision}` lists its files"
        )
    return shown.stdout


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, check=False)
    except FileNotFoundError as error:
        raise FoundryError("git is not installed", hint="install it, or name files only") from error
