"""The ledger of a training: a line of JSON for every optimizer step, each bound to all before it by a hash.

    {"kind":"begin","format_version":1,…,"chain":"…"}     what the run is made of
    {"kind":"step","step":1,…,"chain":"…"}                what a step came to
    {"kind":"environment","after_step":7,…,"chain":"…"}   the run went on in another environment
    {"kind":"end","steps":1232,…,"chain":"…"}             the weights that it left

`chain` is the SHA-256, its first 32 digits, of the chain of the line before and of the line without its own chain. So
a line that was changed, taken out or moved is found, and where. docs/ledger.md says what the keys mean.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.artefacts import check_artefact
from pipeline.errors import ArtifactError
from pipeline.files import MANIFEST, parse_json, read_text, sha256_file, sync_file, verify_manifest

LEDGER = "ledger.jsonl"
_FORMAT = 1
_CHAIN_DIGITS = 32
_LINE = re.compile(r'(\{"kind":"[a-z]+",.*),"chain":"([0-9a-f]{32})"\}')
_REBUILD = "foundry run --from train --force"
_MARK_BYTES = 4  # of a tensor
_MAY_BE_NULL = ("loss", "gradient_norm")


class LedgerWriter:
    """The ledger of a run that goes on. Each line is with the operating system when `append` returns.

    Args:
        path: the file. It is cut back to the line whose chain is `head`, which must be there; without a head it begins
            anew.
        begin: what the run is made of; it is only written where the file begins, and only then called.
        environment: what the run is executed on; where that is another than before, a line says so.
        after_step: the step that the run goes on after.
        head: the chain of the last line that counts, from the checkpoint of that step; None: there is none.

    Raises:
        ArtifactError: the file is damaged: it has no sound line with that chain.
    """

    def __init__(
        self,
        path: Path,
        *,
        begin: Callable[[], Mapping[str, Any]],
        environment: Mapping[str, Any],
        after_step: int,
        head: str | None,
    ) -> None:
        self._path = path
        known: Mapping[str, Any] | None = None
        self.head = ""
        if head is not None and path.exists():
            known = _cut_back(path, head)
            self.head = head
        if known is None:
            path.write_bytes(b"")
            versions = {"format_version": _FORMAT, "toolkit_version": __version__, "after_step": after_step}
            self._write("begin", {**versions, "environment": dict(environment), **begin()})
        elif known != environment:
            self._write("environment", {"after_step": after_step, "environment": dict(environment)})

    def append(self, step: Mapping[str, Any]) -> None:
        """Note a step. What is bytes is written in base64, what is None is left out."""
        self._write("step", step)

    def settle(self) -> str:
        """Put what was noted on disk; returns the chain of the last line."""
        sync_file(self._path)
        return self.head

    def finish(self, folder: Path, *, steps: int, weights: Sequence[str]) -> None:
        """Put the whole ledger into the folder of a model, with a last line about its weights.

        Args:
            folder: the folder, whose weights are there.
            steps: optimizer steps of the run.
            weights: names of the files of weights.
        """
        self._write("end", {"steps": steps, "weights": {name: sha256_file(folder / name) for name in weights}})
        shutil.copyfile(self._path, folder / LEDGER)

    def _write(self, kind: str, fields: Mapping[str, Any]) -> None:
        plain = {
            key: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for key, value in fields.items()
            if value is not None or key in _MAY_BE_NULL
        }
        body = json.dumps({"kind": kind, **plain}, separators=(",", ":"), ensure_ascii=False, allow_nan=False)[:-1]
        self.head = _chained(self.head, body)
        with self._path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(f'{body},"chain":"{self.head}"}}\n')


def _chained(head: str, body: str) -> str:
    return hashlib.sha256(f"{head}{body}".encode()).hexdigest()[:_CHAIN_DIGITS]


def _cut_back(path: Path, head: str) -> Mapping[str, Any]:
    """Cut a ledger after the line whose chain is `head`; returns the environment that was last noted up to there."""
    environment: Mapping[str, Any] = {}
    before, size = "", 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = line.decode("utf-8", errors="replace").removesuffix("\n")
            found = _LINE.fullmatch(text)
            if found is None or _chained(before, found[1]) != found[2]:
                break
            before, size = found[2], size + len(line)
            if text.startswith(('{"kind":"begin"', '{"kind":"environment"')):
                environment = parse_json(text, f"{path}:{number}")["environment"]
            if before == head:
                os.truncate(path, size)
                return environment
    message = "the ledger does not hold every step that the checkpoint knows of: it was changed or damaged"
    hint = f"rm {path} && foundry run: the run goes on from its checkpoint, and its ledger begins there"
    raise ArtifactError(message, where=str(path), hint=hint)


@dataclass(frozen=True)
class Ledger:
    """A ledger whose chain holds.

    Attributes:
        path: the file.
        begin: what the run is made of.
        environments: each other environment that it went on in.
        steps: one after the other.
        end: the weights that it left; None: it goes on, or was cut off.
    """

    path: Path
    begin: Mapping[str, Any]
    environments: tuple[Mapping[str, Any], ...]
    steps: tuple[Mapping[str, Any], ...]
    end: Mapping[str, Any] | None


def read_ledger(path: Path) -> Ledger:
    """Read a ledger, after checking that each line follows from the one before.

    Raises:
        ArtifactError: a line was changed, cut, taken out or moved, or is not of this format; names the line.
    """
    text = read_text(path)
    *lines, rest = text.split("\n")
    rows = list(_rows(path, lines))
    if rest or not rows:
        raise _refused("the line is cut off" if rest else "the file is empty", f"{path}:{len(lines) + 1}")
    of_kind = {kind: tuple(row for row in rows if row["kind"] == kind) for kind in ("environment", "step", "end")}
    end = of_kind["end"][0] if of_kind["end"] else None
    return Ledger(path, rows[0], of_kind["environment"], of_kind["step"], end)


def _rows(path: Path, lines: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Each line as JSON, in whose place it is and that holds the chain."""
    head, expected = "", 0  # the step that the next line of a step must be of
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        found = _LINE.fullmatch(line)
        if found is None:
            raise _refused("the line was changed or cut: it is no line of a ledger", where)
        step = _step_of(line)
        if step is not None and number > 1 and step != expected:
            later = any(_step_of(other) == expected for other in lines[number:])
            why = "it is there twice" if step < expected else "lines were moved" if later else "lines are missing"
            raise _refused(f"step {step} stands where step {expected} belongs: {why}", where)
        if _chained(head, found[1]) != found[2]:
            about = "" if step is None else f" of step {step}"
            raise _refused(f"the line{about} was changed: it does not fit its chain or the line before", where)
        row = parse_json(line, where)
        check_artefact("ledger", row, where)
        if (row["kind"] == "begin") != (number == 1) or (row["kind"] == "end" and number < len(lines)):
            raise _refused(f"a line of the kind {row['kind']} does not belong here", where)
        if number == 1:
            expected = row["after_step"] + 1
        elif step is not None:
            expected += 1
        if row["kind"] == "end" and row["steps"] != expected - 1:
            raise _refused(f"the ledger ends after step {expected - 1}, and the run after {row['steps']}", where)
        head = found[2]
        yield row


def _step_of(line: str) -> int | None:
    found = re.match(r'\{"kind":"step","step":(\d+),', line)
    return int(found[1]) if found else None


def verify_ledger(path: Path) -> Ledger:
    """Insist that a ledger is whole, from the first step to the end.

    Raises:
        ArtifactError: it is damaged (see `read_ledger`), or does not hold all of a run.
    """
    ledger = read_ledger(path)
    if ledger.begin["after_step"]:
        message = f"the ledger begins after step {ledger.begin['after_step']}: that of the steps before was lost"
        raise _refused(message, f"{path}:1")
    if ledger.end is None:
        message = f"the ledger stops after step {len(ledger.steps)}: the run has not ended, or lines are missing"
        raise _refused(message, str(path))
    return ledger


def verify_ledger_of(folder: Path) -> Ledger:
    """The same for the ledger of a model, whose weights and other files must be those that training left.

    Raises:
        ArtifactError: as above; or weights are not those of the last line, or a file is not that of the manifest.
    """
    ledger = verify_ledger(folder / LEDGER)
    assert ledger.end is not None
    for name, expected in ledger.end["weights"].items():
        if not (folder / name).is_file() or sha256_file(folder / name) != expected:
            raise _refused("these are not the weights that the ledger ends with", str(folder / name))
    if (folder / MANIFEST).is_file():
        verify_manifest(folder, rebuild=_REBUILD)
    return ledger


def marks_of(step: Mapping[str, Any], key: str) -> list[bytes] | None:
    """The marks of all tensors in a line; None: they were not noted.

    Args:
        step: a line of a step, or the first line.
        key: `weights` or `gradients`.
    """
    packed = step.get(key)
    if packed is None:
        return None
    data = base64.b64decode(packed)
    return [data[start : start + _MARK_BYTES] for start in range(0, len(data), _MARK_BYTES)]


def _refused(message: str, where: str) -> ArtifactError:
    return ArtifactError(message, where=where, hint=f"build it again with: {_REBUILD}")
