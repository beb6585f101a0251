"""Measurements in processes of their own: the parent's side, the child's side, and the clock between them.

A child reads one JSON object a line from standard input and answers each with one on standard output. The first
names the work and its settings. A child lives through all rounds, so that what it compiles is compiled once, and
sleeps while the others have theirs.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.memory import memory_bytes

_WARM_UP_STEPS = 1  # of each round, not counted: the caches still hold what ran before
_PATIENCE = 30.0  # seconds for a child to end once nothing more is asked
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # what says how threads wait for each other
_HERE = Path(__file__).resolve().parent


class WorkFailedError(Exception):
    """A child could not do its work; the message is what it said last."""


class Child:
    """Some work in a fresh process. Use it in a `with` block.

    Args:
        work: `module:function` in this folder; the function takes the settings and a `Clock`.
        settings: plain JSON values.
        environment: added to that of this process, but for what says how threads wait: unless it is given here, they
            wait as PyTorch lets them.
    """

    def __init__(self, work: str, settings: dict[str, Any], environment: dict[str, str] | None = None) -> None:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            [sys.executable, str(_HERE / "bench_process.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env={**{name: os.environ[name] for name in os.environ if name not in _WAITING}, **(environment or {})},
        )
        self._send({"work": work, "settings": settings})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(kill=error is not None)

    def close(self, *, kill: bool = False) -> None:
        """End the process: by itself, its scratch folders removed, unless it is to be killed or takes too long."""
        if kill:
            self._process.kill()
        try:
            self._process.communicate(timeout=_PATIENCE)  # closes its input: there are no more requests
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._log.close()

    def answer(self) -> dict[str, Any]:
        """The next answer.

        Raises:
            WorkFailedError: the process ended without one.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._log.seek(0)
        said = self._log.read().strip().splitlines()
        raise WorkFailedError(said[-1] if said else f"the process ended with {self._process.returncode}")

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        self._send(request)
        return self.answer()

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer that does not come says why


def in_child(work: str, settings: dict[str, Any], environment: dict[str, str] | None = None) -> dict[str, Any]:
    """The one answer of work that has no rounds."""
    with Child(work, settings, environment) as child:
        return child.answer()


class Clock:
    """What a training loop calls after each optimizer step: it measures rounds, and sleeps between them.

    The first call ends the warm start: the time from the beginning of the work to it, compilation included, is
    answered with the facts given to `describe`.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], None], request: Callable[[], dict[str, Any] | None]) -> None:
        self._answer, self._request = answer, request
        self._born = time.perf_counter()
        self._facts: dict[str, Any] = {}
        self._seconds: float | None = None  # of the round under way
        self._to_skip = 0
        self._began = 0.0
        self._tokens = self._steps = 0

    def describe(self, **facts: Any) -> None:
        """Say what runs, before its first step."""
        self._facts.update(facts)

    def __call__(self, tokens: int) -> bool:
        """Note a step of so many tokens; true when there will be no more rounds."""
        if self._seconds is None:
            first = {"start_seconds": time.perf_counter() - self._born, **self._facts}
            return self._next_round(first)
        if self._to_skip:
            self._to_skip -= 1
            self._began = time.perf_counter()
            return False
        self._tokens += tokens
        self._steps += 1
        elapsed = time.perf_counter() - self._began
        if elapsed < self._seconds:
            return False
        return self._next_round(
            {"tokens_per_second": self._tokens / elapsed, "steps": self._steps, "peak_rss_mb": peak_rss_mb()}
        )

    def report(self, figures: dict[str, Any]) -> None:
        """Answer with figures, for work that has no rounds."""
        self._answer(figures)

    def _next_round(self, figures: dict[str, Any]) -> bool:
        self._answer(figures)
        request = self._request()
        if request is None:
            return True
        self._seconds = request["seconds"]
        self._to_skip = _WARM_UP_STEPS
        self._tokens = self._steps = 0
        self._began = time.perf_counter()
        return False


def peak_rss_mb() -> float:
    """The most memory that this process has held, in megabytes."""
    return memory_bytes()[1] / 1e6


def seconds_of(call: Callable[[], Any], *, repeats: int) -> list[float]:
    """How long each of some calls takes."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return times


def milliseconds(times: list[float]) -> dict[str, float]:
    """Median and 95th percentile of some seconds, in milliseconds."""
    ordered = sorted(times)
    last = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return {"p50_ms": statistics.median(ordered) * 1e3, "p95_ms": last * 1e3, "runs": len(ordered)}


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not end up between the answers

    def answer(figures: dict[str, Any]) -> None:
        print(json.dumps(figures), file=answers, flush=True)

    def request() -> dict[str, Any] | None:
        line = sys.stdin.readline()
        return json.loads(line) if line else None

    first = request()
    assert first is not None
    module, function = first["work"].split(":")
    getattr(importlib.import_module(module), function)(first["settings"], Clock(answer, request))


if __name__ == "__main__":
    _serve()
