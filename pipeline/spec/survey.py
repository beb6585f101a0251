"""Many files at once: which of them a check looks at, and what it finds in each."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.artefacts import ARTEFACTS, kind_of, mismatches
from pipeline.paths import SPECS
from pipeline.spec.check import check
from pipeline.spec.diagnose import Problem, SpecError
from pipeline.spec.document import parse_document, read_document
from pipeline.spec.nearest import closest
from pipeline.spec.project import Project
from pipeline.spec.schema import kinds

STDIN = "-"
_SUFFIXES = (".yaml", ".yml", ".json")
_SHELVES = ("presets", "templates")  # folders of specs/ whose documents can be named without their path
# A file in a folder is ours when it says so at its top level; one that is broken says it all the same.
_SAYS_VERSION = re.compile(rb"""^\{?\s*["']?schema_version["']?\s*:""", re.MULTILINE)
_SAYS_KIND = re.compile(rb"""^["']?kind["']?\s*:\s*["']?(\w+)""", re.MULTILINE)
_ENOUGH_TO_TELL = 100_000  # bytes; documents are a few thousand


@dataclass(frozen=True, slots=True)
class Checked:
    """One file and everything that was found in it.

    Attributes:
        file: its name as it was given.
        kind: the kind of document or artefact; empty when it could not be told.
        name: what the document calls itself, if it does.
        problems: in the order of the file.
    """

    file: str
    kind: str = ""
    name: str = ""
    problems: tuple[Problem, ...] = ()

    @property
    def errors(self) -> int:
        """How many of the problems make it unusable."""
        return sum(not problem.is_warning for problem in self.problems)

    @property
    def warnings(self) -> int:
        """How many of the problems are only odd."""
        return len(self.problems) - self.errors


def check_all(names: Iterable[str], project: Path, skipped: Callable[[str], None]) -> Iterator[Checked]:
    """Check files, and folders with all that is below them, in the order given.

    Args:
        names: files, folders, names of shipped presets or templates, or `-` for standard input.
        project: the folder in which the documents would be built.
        skipped: told of each file in a folder that is none of ours, and why.
    """
    surroundings = Project(project)
    for name in names:
        if name == STDIN:
            yield _document("<stdin>", surroundings, sys.stdin.buffer.read())
        elif Path(name).is_dir():
            yield from _folder(Path(name), surroundings, skipped)
        elif Path(name).exists():
            yield _file(Path(name), surroundings)
        else:
            yield _missing(name, surroundings)


def _file(path: Path, project: Project) -> Checked:
    kind = kind_of(path)
    if kind is not None and ARTEFACTS[kind].form == "json":
        return _artefact(path, kind)
    return _document(str(path), project)


def _document(file: str, project: Project, raw: bytes | None = None) -> Checked:
    try:
        document = read_document(file) if raw is None else parse_document(raw, file)
    except SpecError as error:
        return Checked(file, problems=error.problems)
    name = document.values.get("name")
    shown = name if isinstance(name, str) else ""
    return Checked(file, str(document.kind), shown, tuple(check(document, project)))


def _artefact(path: Path, kind: str) -> Checked:
    def wrong(message: str, keys: str = "") -> Problem:
        hint = f"the toolkit wrote it: build it again with {ARTEFACTS[kind].rebuild}"
        return Problem("E0308", message, str(path), path=keys, hint=hint)

    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        problem = Problem("E0101", f"the file cannot be read: {error.strerror}", str(path))
        return Checked(str(path), kind, problems=(problem,))
    except (ValueError, RecursionError) as error:
        return Checked(str(path), kind, problems=(wrong(f"the file is not valid JSON: {error}"),))
    found = tuple(wrong(str(mismatch), mismatch.path) for mismatch in mismatches(kind, value))
    return Checked(str(path), kind, problems=found)


def _folder(folder: Path, project: Project, skipped: Callable[[str], None]) -> Iterator[Checked]:
    empty = True
    for path in _candidates(folder):
        if reason := _why_foreign(path):
            skipped(f"{path}: skipped, {reason}")
        else:
            empty = False
            yield _file(path, project)
    if empty:
        hint = "name the files, or a folder that holds some"
        problem = Problem("E0101", "nothing in this folder can be checked", str(folder), hint=hint)
        yield Checked(str(folder), problems=(problem,))


def _candidates(folder: Path) -> Iterator[Path]:
    """Files that could be ours, in an order that does not depend on the disk; hidden folders are left out."""
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(here) / name for name in sorted(files) if name.endswith(_SUFFIXES))
        yield from (path for path in paths if path.is_file() or not path.exists())  # pipes would keep us waiting


def _why_foreign(path: Path) -> str:
    """Why a file that was found is none of ours; nothing when it is."""
    try:
        with path.open("rb") as stream:
            start = stream.read(_ENOUGH_TO_TELL)
    except OSError:
        return ""  # is said when it is read
    if path.suffix == ".json":
        return _why_foreign_json(path, start)
    said = {found.decode() for found in _SAYS_KIND.findall(start)}
    if _SAYS_VERSION.search(start) or said & set(kinds()):
        return ""
    return "it names no `schema_version` at its top"


def _why_foreign_json(path: Path, start: bytes) -> str:
    ours = kind_of(path) is not None
    try:
        value = json.loads(start)
    except (ValueError, RecursionError):
        return "" if ours or _SAYS_VERSION.search(start) else "it is not JSON that names a `schema_version`"
    top = value if isinstance(value, dict) else {}
    if "$schema" not in top and ("schema_version" in top or (ours and "format_version" in top)):
        return ""
    return "it names no `schema_version` at its top"


def _missing(name: str, project: Project) -> Checked:
    """What a name stands for when no file has it: a shipped preset or template, or a slip."""
    known = {path.stem: path for shelf in _SHELVES for path in sorted((SPECS / shelf).glob("*.yaml"))}
    if name in known:
        return _file(known[name], project)
    meant = None if name.endswith(_SUFFIXES) else closest(name, known)
    if meant is None:
        return _document(name, project)  # which says what is there instead
    hint = f"did you mean {meant}?"
    return Checked(name, problems=(Problem("E0101", "there is no file and no preset of this name", name, hint=hint),))
