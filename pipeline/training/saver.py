"""Which moments of a run are saved, which checkpoints stay, and which of them holds the best weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.errors import ArtifactError
from pipeline.training.checkpoint import Checkpoint, best_weights, newest_checkpoint, restore, save_checkpoint
from pipeline.training.distributed import ALONE, World
from pipeline.training.events import CheckpointSaved, Event
from pipeline.training.progress import Progress
from pipeline.training.run_folder import checkpoints_in, prune, read_metadata, steps_kept


class Saver:
    """Saves checkpoints of one run. Nothing that it is told changes the weights.

    Args:
        run_folder: where checkpoints go; its lock is held.
        model: what is trained.
        optimizer: over the model's parameters.
        total_steps: optimizer steps of the whole run.
        state: goes into every checkpoint's state as it is.
        metadata: goes into every checkpoint's metadata as it is.
        emit: receives an event for each checkpoint.
        every_n_steps: steps between checkpoints; None counts no steps. Gains and stops are always saved.
        every_n_epochs: epochs between checkpoints; None counts no epochs.
        every_n_minutes: minutes between checkpoints; None does not look at the clock.
        scheduled: steps that are saved, and kept for good. Step 0 is the model before training.
        keep_last_n: how many of the newest checkpoints are kept.
        keep_best_k: how many of the best are kept besides.
        monitor: what makes a checkpoint good: `train_loss`, or a metric that steps have which were evaluated.
        mode: whether the lowest (`min`) or the highest (`max`) are the best.
        last: whether there must be a checkpoint of the last step.
        settle: called before each save, so that what a checkpoint goes with is on disk before it; what it returns
            goes into the state.
        world: the ranks, which all save together; the first one writes.
    """

    def __init__(
        self,
        *,
        run_folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        total_steps: int,
        state: Mapping[str, Any],
        metadata: Mapping[str, Any],
        emit: Callable[[Event], None],
        every_n_steps: int | None = None,
        every_n_epochs: int | None = None,
        every_n_minutes: float | None = None,
        scheduled: Collection[int] = (),
        keep_last_n: int = 1,
        keep_best_k: int = 0,
        monitor: str = "val_loss",
        mode: str = "min",
        last: bool = False,
        settle: Callable[[], Mapping[str, Any]] = dict,
        world: World = ALONE,
    ) -> None:
        self._world = world
        self._folder, self._model, self._optimizer = run_folder, model, optimizer
        self._total, self._scheduled = total_steps, frozenset(scheduled)
        self._every_n_steps, self._every_n_epochs = every_n_steps, every_n_epochs
        self._every_seconds = None if every_n_minutes is None else 60 * every_n_minutes
        self._keep_last_n, self._keep_best_k, self._monitor, self._mode = keep_last_n, keep_best_k, monitor, mode
        self._last, self._state, self._metadata, self._emit = last, dict(state), dict(metadata), emit
        self._settle = settle
        self._figures: dict[int, float | None] = {}  # step of each checkpoint → what makes it good
        self._saved_step = -1
        self._saved_at = time.monotonic()
        self._measured: Mapping[str, float] = {}  # of the step that was just done
        self.best: Path | None = None

    def begin(self, checkpoint: Checkpoint | None, progress: Progress) -> None:
        """Take over what an earlier process saved, or save the first moment of a new run if it is scheduled.

        What is newer than the checkpoint that training goes on from is damaged, and goes.
        """
        if checkpoint is None:
            if self._world.is_first:
                prune(self._folder, keep=())
            if 0 in self._scheduled:
                self.save(progress, is_best=False)
            return
        if self._world.is_first:
            found = checkpoints_in(self._folder)
            earlier = {step: folder for step, folder in found.items() if step <= checkpoint.step}
            prune(self._folder, keep=earlier)
            self._figures = {step: self._figure(folder) for step, folder in earlier.items()}
        self._saved_step = checkpoint.step
        self.best = checkpoint.best_weights if progress.best_step is not None else None

    def roll_back(self, progress: Progress) -> int | None:
        """Put the newest checkpoint's weights, moments and random states into place; its step, None without one."""
        checkpoint, _ = newest_checkpoint(self._folder)
        if checkpoint is None:
            return None
        restore(checkpoint, model=self._model, optimizer=self._optimizer, world=self._world)
        progress.rollbacks += 1
        return checkpoint.step

    def after_step(
        self, progress: Progress, *, metrics: Mapping[str, float], improved: bool, epoch_ended: int | None
    ) -> None:
        """Save this moment if it is the best so far, scheduled, or an interval is over.

        Args:
            progress: of the run.
            metrics: of this step, if it was evaluated.
            improved: whether it is the best so far.
            epoch_ended: the epoch that the step ended, from 1.
        """
        self._measured = metrics
        due = (
            improved,
            progress.step in self._scheduled,
            self._every_n_steps is not None and progress.step % self._every_n_steps == 0,
            self._every_n_epochs is not None and epoch_ended is not None and epoch_ended % self._every_n_epochs == 0,
            self._every_seconds is not None and self._all_waited(self._every_seconds),
        )
        if any(due):
            self.save(progress, is_best=improved)

    def after_run(self, progress: Progress) -> None:
        """Save the last moment, if that is wanted."""
        if self._last:
            self.save_once(progress)

    def save(self, progress: Progress, *, is_best: bool) -> None:
        """Save this moment; with `is_best`, its weights become the best ones."""
        began = time.monotonic()
        checkpoint = save_checkpoint(
            self._folder,
            model=self._model,
            optimizer=self._optimizer,
            state={**self._state, **self._settle(), "step": progress.step, "progress": vars(progress)},
            metadata=self._describe(progress),
            best=None if is_best else self.best,
            world=self._world,
        )
        if progress.best_step is not None:
            self.best = best_weights(checkpoint)
        if self._world.is_first:
            self._figures[progress.step] = self._figure(checkpoint)
            self._prune()
        self._saved_step, self._saved_at = progress.step, time.monotonic()
        self._emit(CheckpointSaved(progress.step, self._saved_at - began))

    def save_once(self, progress: Progress) -> None:
        """Save this moment unless that has been done."""
        if self._saved_step != progress.step:
            self.save(progress, is_best=False)

    def _all_waited(self, seconds: float) -> bool:
        """Whether that much time has passed since the last save, by the clock of any rank: they save together."""
        return bool(self._world.largest(int(time.monotonic() - self._saved_at >= seconds)))

    def _prune(self) -> None:
        kept = steps_kept(
            self._figures, last=self._keep_last_n, best=self._keep_best_k, mode=self._mode, scheduled=self._scheduled
        )
        prune(self._folder, keep=kept)
        self._figures = {step: figure for step, figure in self._figures.items() if step in kept}

    def _figure(self, checkpoint: Path) -> float | None:
        try:
            figure: float | None = read_metadata(checkpoint)["metrics"].get(self._monitor)
        except ArtifactError:
            return None  # damaged: never among the best
        return figure

    def _describe(self, progress: Progress) -> dict[str, Any]:
        learned = {} if progress.last_loss is None else {"train_loss": progress.last_loss}
        return {
            **self._metadata,
            "step": progress.step,
            "total_steps": self._total,
            "epoch": progress.epoch,
            "finished": progress.stopped_early or progress.step >= self._total,
            "scheduled": progress.step in self._scheduled,
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "tokens": progress.tokens,
            "metrics": {**learned, **self._measured},
            "seconds": round(progress.seconds, 3),
        }
