"""What a person sees while work goes on: plain lines in a log, live progress on a terminal.

Everything goes to standard error, so that standard output carries results alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.errors import FoundryError

_PLAIN_EVERY_SECONDS = 10.0  # in a log, one progress line in this time is enough to see that work goes on


def say(text: str) -> None:
    """Print one line of information."""
    print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Print a warning: the work goes on."""
    say(f"warning: {text}")


def show_error(error: FoundryError) -> None:
    """Print an error the way every command does: what and where, then what to do."""
    say(f"error: {error}")
    if error.hint:
        say(f"  hint: {error.hint}")


def duration(seconds: float) -> str:
    """Seconds as people read them: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """Counts units of work and shows how many a second and how long is left."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._live = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()
        self._first = 0

    def start_at(self, done: int) -> None:
        """Begin from work that an earlier process did, which does not count into the rate."""
        self._first = done

    def update(self, done: int, note: str = "") -> None:
        """Say that `done` of the units are finished."""
        now = time.monotonic()
        last = done >= self._total
        if not last and now - self._shown < (0.1 if self._live else _PLAIN_EVERY_SECONDS):
            return
        self._shown = now
        rate = (done - self._first) / max(now - self._started, 1e-9)
        left = duration((self._total - done) / rate) if rate > 0 else "?"
        line = f"{self._label}: {done}/{self._total} {self._unit}, {rate:,.1f}/s, {left} left"
        line = f"{line}  {note}" if note else line
        if self._live:
            print(f"\r\x1b[K{line}", end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            say(line)

    def clear(self) -> None:
        """Take the live line away, so that other text can be printed."""
        if self._live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@contextmanager
def progress(label: str, total: int, unit: str) -> Iterator[Progress]:
    """Show progress while the block runs, and leave a clean line behind whatever happens."""
    shown = Progress(label, total, unit)
    try:
        yield shown
    finally:
        shown.clear()
