"""How far a training run has come: its counters and losses, which every checkpoint keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import TrainingError
from pipeline.training.events import EpochDone


@dataclass
class Progress:
    """Everything that changes while training, besides weights, moments and random states. Plain JSON values."""

    step: int = 0  # optimizer steps done
    epoch: int = 0  # from 0
    cursor: int = 0  # batches of this epoch that are done
    tokens: int = 0  # targets learned from
    epoch_nats: float = 0.0  # loss summed over this epoch's targets so far
    epoch_tokens: int = 0
    best_val_loss: float | None = None
    best_step: int | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)  # of the evaluation at `best_step`
    last_val_loss: float | None = None
    last_loss: float | None = None
    evaluations_without_gain: int = 0
    stopped_early: bool = False
    flawed_in_a_row: int = 0  # steps not taken since the last one that was
    skipped_steps: int = 0  # not taken, because their loss or gradient was not finite
    overflowed_steps: int = 0  # not taken, because the loss scale was too large for float16
    loss_scale: float | None = None  # None: nothing is scaled
    loss_scale_steps: int = 0  # since it last changed
    rollbacks: int = 0  # of the skipped steps, the ones after which earlier weights came back
    vanishing_steps: int = 0  # gradient norm below loop.VANISHING
    exploding_steps: int = 0  # gradient norm above loop.EXPLODING
    micro_batch_rows: int | None = None  # once memory made micro-batches smaller than a batch
    seconds: float = 0.0  # spent training, by this process and those before it
    step_seconds: float = 0.0  # of those, in optimizer steps
    epochs_seconds: float = 0.0  # those until the end of the last epoch
    epoch_history: list[dict[str, Any]] = field(default_factory=list)

    def count(self, *, nats: float, tokens: int, seconds: float, cursor: int) -> None:
        """Note an optimizer step."""
        self.step += 1
        self.cursor = cursor
        self.tokens += tokens
        self.epoch_nats += nats
        self.epoch_tokens += tokens
        self.last_loss = nats / tokens
        self.step_seconds += seconds
        self.flawed_in_a_row = 0

    def skip(self, *, cursor: int) -> None:
        """Note an optimizer step that was not taken."""
        self.step += 1
        self.cursor = cursor
        self.skipped_steps += 1
        self.flawed_in_a_row += 1

    def overflow(self, *, cursor: int) -> None:
        """Note an optimizer step that was not taken for the sake of the loss scale alone."""
        self.step += 1
        self.cursor = cursor
        self.overflowed_steps += 1

    def judge(self, metrics: Mapping[str, float], *, min_delta: float, patience: int | None) -> bool:
        """Note an evaluation; say whether it is the best so far.

        Raises:
            TrainingError: it is not a finite number.
        """
        val_loss = metrics["val_loss"]
        if not math.isfinite(val_loss):
            raise TrainingError("the validation loss is not a finite number", hint="lower training.learning_rate")
        self.last_val_loss = val_loss
        improved = self.best_val_loss is None or val_loss < self.best_val_loss - min_delta
        if improved:
            self.best_val_loss, self.best_step = val_loss, self.step
            self.best_metrics = dict(metrics)
        self.evaluations_without_gain = 0 if improved else self.evaluations_without_gain + 1
        self.stopped_early = not improved and patience is not None and self.evaluations_without_gain >= patience
        return improved

    def end_epoch(self, *, val_loss: float | None, lr: float, whole: bool, seconds: float) -> EpochDone:
        """Note the end of an epoch, or with `whole` false of the run in the middle of one, after `seconds` of it."""
        train_loss = self.epoch_nats / self.epoch_tokens if self.epoch_tokens else None
        spent = seconds - self.epochs_seconds
        done = EpochDone(epoch=self.epoch + 1, train_loss=train_loss, val_loss=val_loss, lr=lr, seconds=spent)
        self.epochs_seconds = seconds
        self.epoch_history.append({name: value for name, value in vars(done).items() if name != "seconds"})
        if whole:
            self.epoch, self.cursor = self.epoch + 1, 0
            self.epoch_nats, self.epoch_tokens = 0.0, 0
        return done
