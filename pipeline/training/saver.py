"""Which moments of a run are saved, and which checkpoint holds the best weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.training.checkpoint import (
    Checkpoint,
    best_weights,
    newest_checkpoint,
    prune,
    restore,
    save_checkpoint,
)
from pipeline.training.distributed import World
from pipeline.training.events import CheckpointSaved, Event
from pipeline.training.progress import Progress


class Saver:
    """Saves checkpoints and knows which of them holds the best weights."""

    def __init__(
        self,
        *,
        run_folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        every_n_steps: int | None,
        every_n_epochs: int | None,
        keep: int,
        last: bool,
        extra: dict[str, Any],
        emit: Callable[[Event], None],
        world: World,
    ) -> None:
        self._world = world
        self._folder, self._model, self._optimizer = run_folder, model, optimizer
        self._every_n_steps, self._every_n_epochs = every_n_steps, every_n_epochs
        self._keep, self._last, self._extra, self._emit = keep, last, extra, emit
        self._saved_step = -1
        self.best: Path | None = None

    def go_on_from(self, checkpoint: Checkpoint | None, progress: Progress) -> None:
        """Take over what an earlier process saved."""
        if checkpoint is not None:
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

    def after_step(self, progress: Progress, *, improved: bool, epoch_ended: int | None) -> None:
        """Save this moment if it is the best so far or an interval is over; `epoch_ended` counts from 1."""
        steps = self._every_n_steps is not None and progress.step % self._every_n_steps == 0
        epochs = (
            epoch_ended is not None and self._every_n_epochs is not None and epoch_ended % self._every_n_epochs == 0
        )
        if improved or steps or epochs:
            self.save(progress, is_best=improved)

    def after_run(self, progress: Progress) -> None:
        """Save the last moment, if that is wanted."""
        if self._last:
            self.save_once(progress)

    def save(self, progress: Progress, *, is_best: bool) -> None:
        """Save this moment; with `is_best`, its weights become the best ones."""
        began = time.monotonic()
        state = {**self._extra, "step": progress.step, "progress": vars(progress)}
        checkpoint = save_checkpoint(
            self._folder,
            model=self._model,
            optimizer=self._optimizer,
            state=state,
            best=None if is_best else self.best,
            world=self._world,
        )
        if progress.best_step is not None:
            self.best = best_weights(checkpoint)
        if self._world.is_first:
            prune(self._folder, keep=self._keep)
        self._saved_step = progress.step
        self._emit(CheckpointSaved(progress.step, time.monotonic() - began))

    def save_once(self, progress: Progress) -> None:
        """Save this moment unless that has been done."""
        if self._saved_step != progress.step:
            self.save(progress, is_best=False)
