"""The document that a name stands for: a file, standard input, a preset, a git revision, or the run of a report."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import FoundryError
from pipeline.paths import DEFAULT_SPEC, REPORTS, SPECS
from pipeline.spec.author import complete, spec_of
from pipeline.spec.document import Document, parse_document, read_document
from pipeline.spec.load import build_spec
from pipeline.spec.nearest import closest
from pipeline.spec.schema import EXPERIMENT
from pipeline.spec.spec import Spec

_PRESETS = SPECS / "presets"
_SUFFIXES = (".yaml", ".yml", ".json")
_RUN = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{0,27}")  # the id of a run, or its beginning
_METRICS = REPORTS / "training_metrics.json"


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
            configuration; a shipped preset, laid over the defaults; the id of a run (or its beginning, up to the first
            `-` at least) whose report is here or in git; `REVISION:PATH` as git has it; a git revision alone, which
            stands for specs/experiment.yaml there.

    Raises:
        SpecError: what the name stands for is not a right document.
        FoundryError: the name stands for nothing.
    """
    if name in _presets() and not Path(name).exists():
        return _preset(name)
    document = _document(name)
    return Named(name, build_spec(document, kind=None), document)


def _document(name: str) -> Document:
    if name == "-":
        return _parsed(sys.stdin.buffer.read(), "<stdin>")
    path = Path(name)
    if path.is_file():
        return _parsed(path.read_bytes(), name) if path.suffix == ".json" else read_document(path)
    if path.exists() or (path.suffix in _SUFFIXES and ":" not in name):
        return read_document(path)  # which says what is wrong with it
    if _RUN.fullmatch(name):
        return _run(name)
    # `./` is the folder one is in, which need not be the top of the repository.
    revision, colon, file = name.partition(":")
    wanted = name if colon else f"{revision}:./{DEFAULT_SPEC}"
    return _parsed(_from_git(revision, wanted, name), f"{revision}:{file or DEFAULT_SPEC}")


def _presets() -> list[str]:
    return sorted(path.stem for path in _PRESETS.glob("*.yaml"))


def _preset(name: str) -> Named:
    """A preset as the experiment that it makes; its document is what the preset itself says of one."""
    preset = read_document(_PRESETS / f"{name}.yaml")
    build_spec(preset, kind="preset")
    said, depth = ("values",), 1
    document = replace(
        preset,
        file=f"preset {name}",
        values=preset.values["values"],
        keys={keys[depth:]: place for keys, place in preset.keys.items() if keys[:depth] == said and keys != said},
        places={keys[depth:]: place for keys, place in preset.places.items() if keys[:depth] == said},
        texts={keys[depth:]: text for keys, text in preset.texts.items() if keys[:depth] == said},
    )
    return Named(name, spec_of(complete(EXPERIMENT, name, document.values), document.file), document)


def _parsed(raw: bytes, file: str) -> Document:
    """A document, or the one inside a report of a run."""
    try:
        values = json.loads(raw)
    except (ValueError, RecursionError):
        return parse_document(raw, file)
    if isinstance(values, dict) and isinstance(values.get("configuration"), dict):
        return parse_document(json.dumps(values["configuration"], indent=2).encode(), f"{file} (configuration)")
    return parse_document(raw, file)


def _run(run_id: str) -> Document:
    """The configuration of a run, from the newest report that has it."""
    for where, raw in _reports():
        try:
            found = json.loads(raw).get("run_id", "")
        except (ValueError, AttributeError):
            continue  # a report of another version, or not one at all: some commit may hold anything
        if found.startswith(run_id):
            return _parsed(raw, where)
    hint = f"ids stand in {_METRICS}, in this folder and in its commits"
    raise FoundryError(f"no report is of the run {run_id}", hint=hint)


def _reports() -> Iterator[tuple[str, bytes]]:
    """Every report of training: that of this folder, then those of the commits, the newest first."""
    if _METRICS.is_file():
        yield str(_METRICS), _METRICS.read_bytes()
    for line in _git("log", "--all", "--format=%H", "--", str(_METRICS)).stdout.split():
        commit = line.decode()
        shown = _git("show", f"{commit}:./{_METRICS}")
        if shown.returncode == 0:  # the commit that deleted it has none
            yield f"{commit[:12]}:{_METRICS}", shown.stdout


def _from_git(revision: str, wanted: str, name: str) -> bytes:
    known = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if known.returncode != 0:
        meant = closest(name, _presets())
        takes = "name a spec file, `-`, a preset, REVISION:PATH like HEAD~1:specs/experiment.yaml, or a revision alone"
        hint = f"did you mean {meant}?" if meant else takes
        raise FoundryError(f"`{name}` is no file here, no preset and no git revision", hint=hint)
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
