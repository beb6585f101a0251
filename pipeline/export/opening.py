"""Exported models, each open in a fresh process: see `opened`, which is the other end."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.closing import Closing
from pipeline.errors import ExportError
from pipeline.export.source import Inputs, Logits

_MOST_LOGITS = 16_000_000  # that are asked for at once: 64 MB in float32


class Process:
    """A fresh process, which imports what a format is opened with and then waits for the file.

    Args:
        name: a format of `formats.FORMATS`.
        threads: processors the runtime may use.
    """

    def __init__(self, name: str, *, threads: int) -> None:
        self.name = name
        self._scratch = tempfile.TemporaryDirectory(prefix="foundry-export-")
        self.folder = Path(self._scratch.name)
        self._log = (self.folder / "stderr").open("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.export.opened", name, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
        )
        self._imported = False

    def open(self, path: Path) -> Runner:
        """The export in a file or folder, of the format of this process, which is now the runner's.

        Raises:
            ExportError: the process cannot open it, and has ended; the message ends with what it said last.
        """
        try:
            return Runner(self, path)
        except ExportError:
            self.close()
            raise

    def wait(self) -> None:
        """Return when everything is imported, and the process does nothing but wait for what to open.

        Raises:
            ExportError: the process has ended; the message ends with what it said last.
        """
        if not self._imported:
            self._answer()
            self._imported = True

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request: see `opened`. Raises as `wait`."""
        self.wait()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it is gone; what it said last is the reason, and comes with the missing answer
        return self._answer()

    def close(self) -> None:
        """End the process and remove its scratch folder."""
        self._process.kill()
        self._process.communicate()
        self._log.close()
        self._scratch.cleanup()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            said = self._log.read().strip().splitlines()
            reason = said[-1] if said else f"the process ended with {self._process.returncode}"
            raise ExportError(f"{self.name} does not run in a fresh process: {reason}")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Runner(Closing):
    """An exported model, open in a process: see `Process.open`. Use it in a `with` block.

    Attributes:
        name: the format.
        uses_torch: whether it took PyTorch to open it.
    """

    def __init__(self, process: Process, path: Path) -> None:
        self._process, self._path, self.name = process, path, process.name
        self.uses_torch: bool = self._ask({"open": str(path)})["torch"]

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def logits(self, ids: Inputs) -> Logits:
        """Token ids or pictures → logits."""
        into = self._process.folder / "logits.npy"
        self._ask({"logits": self._put(ids), "into": str(into)})
        logits: Logits = np.load(into, allow_pickle=False)
        return logits

    def greedy(self, prompt: list[int], tokens: int) -> list[int]:
        """The likeliest continuation of a prompt."""
        ids: list[int] = self._ask({"greedy": prompt, "tokens": tokens})["ids"]
        return ids

    def seconds(self, ids: Inputs, *, warm_ups: int, runs: int) -> list[float]:
        """The time of each of `runs` passes over token ids or pictures."""
        times: list[float] = self._ask({"time": self._put(ids), "warm_ups": warm_ups, "runs": runs})["seconds"]
        return times

    def nats(self, rows: Inputs) -> float:
        """How surprised it is by texts: the sum of -ln p of each token of (B, T + 1) ids after those before it."""
        at_once = max(1, _MOST_LOGITS // (rows.shape[1] * self._width(rows)))
        parts = (rows[first : first + at_once] for first in range(0, len(rows), at_once))
        return sum(float(self._ask({"nats": self._put(part)})["nats"]) for part in parts)

    def _width(self, rows: Inputs) -> int:
        """The logits of one token."""
        return int(self.logits(rows[:1, :1]).shape[-1])

    def _put(self, ids: Inputs) -> str:
        path = self._process.folder / "ids.npy"
        np.save(path, ids, allow_pickle=False)
        return str(path)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._process.ask(request)
        except ExportError as error:
            raise ExportError(error.message, where=str(self._path)) from error
