"""The runs of this project that have checkpoints, and which of these a rule removes. Imports no torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError, FoundryError
from pipeline.paths import work_dir
from pipeline.training.run_folder import (
    checkpoints_in,
    holder,
    locked,
    read_metadata,
    remove,
    steps_kept,
    verify_checkpoint,
)


@dataclass(frozen=True)
class Saved:
    """A checkpoint.

    Attributes:
        step: optimizer steps done.
        folder: where it is.
        size: bytes of its files; what other checkpoints link to as well is counted in each.
        metadata: what it says about itself; None when that cannot be read.
    """

    step: int
    folder: Path
    size: int
    metadata: dict[str, Any] | None


@dataclass(frozen=True)
class Run:
    """A run folder with checkpoints.

    Attributes:
        folder: where it is.
        saved: its checkpoints, the oldest first.
        holder: the process that is training it; empty: none is.
    """

    folder: Path
    saved: tuple[Saved, ...]
    holder: str

    @property
    def name(self) -> str:
        """What it is called: the beginning of its fingerprint."""
        return self.folder.name

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        newest = self.saved[-1].metadata
        return newest is not None and bool(newest["finished"])

    @property
    def state(self) -> str:
        """`training`, `finished` or `unfinished`."""
        return "training" if self.holder else "finished" if self.finished else "unfinished"

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON."""
        saved = [{"step": each.step, "folder": str(each.folder), "bytes": each.size} for each in self.saved]
        about = [{**row, "metadata": each.metadata} for row, each in zip(saved, self.saved, strict=True)]
        return {"run": self.name, "folder": str(self.folder), "state": self.state, "checkpoints": about}


def runs() -> list[Run]:
    """Every run of the work folder that has checkpoints, by name."""
    folders = sorted((work_dir() / "runs").glob("*/"))
    found = [Run(folder, tuple(_saved(folder)), holder(folder)) for folder in folders]
    return [run for run in found if run.saved]


def chosen(names: Sequence[str]) -> list[Run]:
    """The runs of some names, or all where none is given; the beginning of a name is enough.

    Raises:
        FoundryError: there is no run of that name.
    """
    found = runs()
    for name in names:
        if not any(run.name.startswith(name) for run in found):
            known = ", ".join(run.name for run in found) or "there is none"
            raise FoundryError(f"no run {name} has checkpoints here", hint=f"runs with checkpoints: {known}")
    return [run for run in found if not names or run.name.startswith(tuple(names))]


def doomed(
    run: Run, *, last: int, best: int, monitor: str, mode: str, before: float | None, everything: bool
) -> list[Saved]:
    """The checkpoints of a run that no rule keeps, the oldest first.

    Args:
        run: the run.
        last: how many of the newest are kept.
        best: how many of the best are kept besides.
        monitor: what makes a checkpoint good: a name among the metrics of its metadata.
        mode: whether the lowest (`min`) or highest (`max`) are the best.
        before: only what was saved before this moment goes, in seconds since 1970; None sets no limit.
        everything: nothing is kept but what is too young.
    """
    readable = {saved.step: saved.metadata for saved in run.saved if saved.metadata is not None}
    kept: set[int] = set()
    if not everything:
        figures = {step: metadata["metrics"].get(monitor) for step, metadata in readable.items()}
        scheduled = {step for step, metadata in readable.items() if metadata["scheduled"]}
        kept = steps_kept(figures, last=last, best=best, mode=mode, scheduled=scheduled)
        if not run.finished and (needed := _newest_sound(run)) is not None:
            kept.add(needed)
    return [saved for saved in run.saved if saved.step not in kept and (before is None or _when(saved) < before)]


def remove_from(run: Run, going: Sequence[Saved]) -> Iterator[Path]:
    """Remove some checkpoints of a run, and its folder when none is left; yields what is gone.

    Raises:
        TrainingError: a process is training the run.
    """
    with locked(run.folder):
        for saved in going:
            remove(saved.folder)
            yield saved.folder
        if len(going) == len(run.saved):
            shutil.rmtree(run.folder)  # while the lock is held: nobody else begins in the folder
            yield run.folder


def _saved(folder: Path) -> Iterator[Saved]:
    for step, checkpoint in checkpoints_in(folder).items():
        size = sum(path.stat().st_size for path in checkpoint.iterdir())
        try:
            metadata = read_metadata(checkpoint)
        except ArtifactError:
            metadata = None
        yield Saved(step, checkpoint, size, metadata)


def _newest_sound(run: Run) -> int | None:
    for saved in reversed(run.saved):
        try:
            verify_checkpoint(saved.folder)
        except ArtifactError:
            continue
        return saved.step
    return None


def _when(saved: Saved) -> float:
    if saved.metadata is None:
        return saved.folder.stat().st_mtime
    return datetime.fromisoformat(saved.metadata["timestamp"]).timestamp()
