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
    import rich.progress

    from pipeline.errors import FoundryError

_PLAIN_EVERY_SECONDS = 10.0  # in a log, one progress line in this time is enough to see that work goes on


_muted = False


def mute() -> None:
    """Print nothing from now on: of several processes that do the same work, one speaks."""
    global _muted  # noqa: PLW0603 - a fact about this process
    _muted = True


def say(text: str) -> None:
    """Print one line of information."""
    if not _muted:
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
    """Counts units of work and shows how many a second and how long is left.

    On a terminal a live bar (rich); elsewhere a plain line from time to time.
    """

    def __init__(self, label: str, total: int, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._started = self._shown = time.monotonic()
        self._first = 0
        self._bar = _live_bar(label, total, unit) if sys.stderr.isatty() and not _muted else None

    def start_at(self, done: int) -> None:
        """Begin from work that an earlier process did, which does not count into the rate."""
        self._first = done

    def update(self, done: int, note: str = "") -> None:
        """Say that `done` of the units are finished."""
        now = time.monotonic()
        rate = (done - self._first) / max(now - self._started, 1e-9)
        left = duration((self._total - done) / rate) if rate > 0 else "?"
        pace = f"{rate:,.1f}/s, {left} left"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, pace=pace, note=note)
            return
        if done < self._total and now - self._shown < _PLAIN_EVERY_SECONDS:
            return
        self._shown = now
        line = f"{self._label}: {done}/{self._total} {self._unit}, {pace}"
        say(f"{line}  {note}" if note else line)

    def say(self, text: str) -> None:
        """Print one line of information without disturbing the bar."""
        if self._bar is None:
            say(text)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Leave the bar as it is and let others print."""
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def progress(label: str, total: int, unit: str) -> Iterator[Progress]:
    """Show progress while the block runs, and leave a clean line behind whatever happens."""
    shown = Progress(label, total, unit)
    try:
        yield shown
    finally:
        shown.stop()


def _live_bar(label: str, total: int, unit: str) -> rich.progress.Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[unit]}"))
    facts = (TextColumn("{task.fields[pace]}", markup=False), TextColumn("{task.fields[note]}", markup=False))
    bar = Bar(*columns, *facts, console=Console(stderr=True))
    bar.add_task(label, total=total, unit=unit, pace="", note="")
    bar.start()
    return bar
