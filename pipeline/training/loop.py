"""The training loop: batches in, better weights out, exactly the same whether or not it was interrupted.

It knows no console, file formats or signals: it emits events, asks a callable whether to stop, and evaluates
through a callable.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.errors import FoundryError, TrainingError
from pipeline.training.checkpoint import Checkpoint, best_weights, prune, restore, save_checkpoint


class BatchSource(Protocol):
    """Where batches come from. Everything is a pure function of epoch and index."""

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""

    def batch(self, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """(B, T) inputs and (B, T) targets."""

    def targets_in(self, epoch: int, index: int) -> int:
        """How many targets of that batch count."""


@dataclass(frozen=True)
class StepDone:
    """One optimizer step, and the evaluation after it if there was one."""

    step: int
    total_steps: int
    epoch: int  # from 1
    loss: float  # mean over the step's tokens, nats
    learning_rate: float
    gradient_norm: float  # before clipping
    tokens_per_second: float  # since the step before, evaluation and checkpoints left out
    val_loss: float | None  # nats per token
    improved: bool


@dataclass(frozen=True)
class EpochDone:
    """The end of a pass over the training split."""

    epoch: int
    train_loss: float
    val_loss: float | None
    lr: float


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint is on disk."""

    step: int
    seconds: float


Event = StepDone | EpochDone | CheckpointSaved


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
    last_val_loss: float | None = None
    last_loss: float | None = None
    evaluations_without_gain: int = 0
    stopped_early: bool = False
    seconds: float = 0.0  # spent training, by this process and those before it
    step_seconds: float = 0.0  # of those, in optimizer steps
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

    def judge(self, val_loss: float, *, min_delta: float, patience: int | None) -> bool:
        """Note an evaluation; say whether it is the best so far.

        Raises:
            TrainingError: it is not a finite number.
        """
        if not math.isfinite(val_loss):
            raise TrainingError("the validation loss is not a finite number", hint="lower training.learning_rate")
        self.last_val_loss = val_loss
        improved = self.best_val_loss is None or val_loss < self.best_val_loss - min_delta
        if improved:
            self.best_val_loss, self.best_step = val_loss, self.step
        self.evaluations_without_gain = 0 if improved else self.evaluations_without_gain + 1
        self.stopped_early = not improved and patience is not None and self.evaluations_without_gain >= patience
        return improved

    def end_epoch(self, *, val_loss: float | None, lr: float, whole: bool) -> EpochDone:
        """Note the end of an epoch, or with `whole` false of the run in the middle of one."""
        done = EpochDone(epoch=self.epoch + 1, train_loss=self.epoch_nats / self.epoch_tokens, val_loss=val_loss, lr=lr)
        self.epoch_history.append(vars(done).copy())
        if whole:
            self.epoch, self.cursor = self.epoch + 1, 0
            self.epoch_nats, self.epoch_tokens = 0.0, 0
        return done


@dataclass(frozen=True)
class Result:
    """What a finished run leaves behind, besides the model itself."""

    progress: Progress
    total_steps: int
    best_weights: Path | None  # safetensors; None when nothing was evaluated, so that the last weights are the best


def planned_steps(*, batches_per_epoch: int, accumulation: int, epochs: int, max_steps: int | None) -> int:
    """Optimizer steps of a whole run. The batches left over at the end of an epoch make a step of their own."""
    steps = epochs * -(-batches_per_epoch // accumulation)
    return steps if max_steps is None else min(steps, max_steps)


def train(
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: BatchSource,
    loss_sum: Callable[[Tensor, Tensor], Tensor],
    learning_rate: Callable[[int], float],
    evaluate: Callable[[], float] | None,
    run_folder: Path,
    checkpoint: Checkpoint | None,
    total_steps: int,
    accumulation: int,
    max_grad_norm: float | None,
    eval_every_n_steps: int | None,
    patience: int | None,
    min_delta: float,
    save_every_n_steps: int | None,
    save_every_n_epochs: int | None,
    keep_last_n: int,
    extra_state: dict[str, Any],
    emit: Callable[[Event], None],
    stop: Callable[[], FoundryError | None],
    started: float,
) -> Result:
    """Train a model to the end, or until asked to stop.

    Args:
        model: in training mode, on its device.
        optimizer: over the model's parameters.
        batches: see `BatchSource`.
        loss_sum: inputs and targets of a batch → sum of the loss over its targets, in nats.
        learning_rate: of an optimizer step, counted from 1.
        evaluate: the loss on held-out data in nats per token, leaving all random states alone; None: there is none.
        run_folder: where checkpoints go; its lock is held.
        checkpoint: to go on from.
        total_steps: optimizer steps of the whole run, from `planned_steps`.
        accumulation: batches of an optimizer step.
        max_grad_norm: gradients are scaled down to this norm; None never.
        eval_every_n_steps: None evaluates at the end of each epoch. The last step is always evaluated.
        patience: evaluations in a row without gain that end the run (0 is as 1); None never.
        min_delta: by how much a loss must be lower to be a gain, in nats per token.
        save_every_n_steps: steps between checkpoints; None counts no steps. Gains and stops are always saved.
        save_every_n_epochs: epochs between checkpoints; None counts no epochs.
        keep_last_n: checkpoints kept.
        extra_state: goes into every checkpoint's state as it is.
        emit: receives every event.
        stop: asked after each step; an error it returns is raised once a checkpoint is saved.
        started: `time.monotonic()` of when this process began to work on the run.

    Raises:
        TrainingError: the loss or a gradient is not finite; the step is not taken.
    """
    progress = Progress()
    if checkpoint is not None:
        restore(checkpoint, model=model, optimizer=optimizer)
        progress = Progress(**checkpoint.state["progress"])
    earlier = progress.seconds
    saver = _Saver(
        run_folder=run_folder, model=model, optimizer=optimizer, keep=keep_last_n, extra=extra_state, emit=emit
    )
    saver.go_on_from(checkpoint, progress)

    while progress.step < total_steps and not progress.stopped_early:
        began = time.monotonic()
        epoch, first = progress.epoch, progress.cursor
        last = min(first + accumulation, batches.per_epoch)
        rate = learning_rate(progress.step + 1)
        for group in optimizer.param_groups:
            group["lr"] = rate
        nats, tokens, norm = _step(
            model, optimizer, batches, loss_sum, epoch=epoch, indices=range(first, last), max_grad_norm=max_grad_norm
        )
        seconds = time.monotonic() - began
        progress.count(nats=nats, tokens=tokens, seconds=seconds, cursor=last)

        epoch_ends = last == batches.per_epoch
        run_ends = progress.step == total_steps
        due = epoch_ends if eval_every_n_steps is None else progress.step % eval_every_n_steps == 0
        val_loss = evaluate() if evaluate is not None and (due or run_ends) else None
        improved = val_loss is not None and progress.judge(val_loss, min_delta=min_delta, patience=patience)
        emit(
            StepDone(
                step=progress.step,
                total_steps=total_steps,
                epoch=epoch + 1,
                loss=nats / tokens,
                learning_rate=rate,
                gradient_norm=norm,
                tokens_per_second=tokens / seconds,
                val_loss=val_loss,
                improved=improved,
            )
        )
        if epoch_ends or run_ends or progress.stopped_early:
            emit(progress.end_epoch(val_loss=val_loss, lr=rate, whole=epoch_ends))

        progress.seconds = earlier + time.monotonic() - started
        after_steps = save_every_n_steps is not None and progress.step % save_every_n_steps == 0
        after_epochs = epoch_ends and save_every_n_epochs is not None and (epoch + 1) % save_every_n_epochs == 0
        if improved or after_steps or after_epochs:
            saver.save(progress, is_best=improved)
        if (reason := stop()) is not None:
            saver.save_once(progress)
            raise reason

    return Result(progress=progress, total_steps=total_steps, best_weights=saver.best)


class _Saver:
    """Saves checkpoints and knows which of them holds the best weights."""

    def __init__(
        self,
        *,
        run_folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        keep: int,
        extra: dict[str, Any],
        emit: Callable[[Event], None],
    ) -> None:
        self._folder, self._model, self._optimizer = run_folder, model, optimizer
        self._keep, self._extra, self._emit = keep, extra, emit
        self._saved_step = -1
        self.best: Path | None = None

    def go_on_from(self, checkpoint: Checkpoint | None, progress: Progress) -> None:
        """Take over what an earlier process saved."""
        if checkpoint is not None:
            self._saved_step = checkpoint.step
            self.best = checkpoint.best_weights if progress.best_step is not None else None

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
        )
        if progress.best_step is not None:
            self.best = best_weights(checkpoint)
        prune(self._folder, keep=self._keep)
        self._saved_step = progress.step
        self._emit(CheckpointSaved(progress.step, time.monotonic() - began))

    def save_once(self, progress: Progress) -> None:
        """Save this moment unless that has been done."""
        if self._saved_step != progress.step:
            self.save(progress, is_best=False)


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: BatchSource,
    loss_sum: Callable[[Tensor, Tensor], Tensor],
    *,
    epoch: int,
    indices: range,
    max_grad_norm: float | None,
) -> tuple[float, int, float]:
    """One optimizer step over some batches: the loss summed over its targets, their number, the gradient norm."""
    device = next(model.parameters()).device
    tokens = sum(batches.targets_in(epoch, index) for index in indices)
    nats = 0.0
    optimizer.zero_grad(set_to_none=True)
    for index in indices:
        ids, targets = (tensor.to(device, non_blocking=True) for tensor in batches.batch(epoch, index))
        loss = loss_sum(ids, targets)
        (loss / tokens).backward()  # type: ignore[no-untyped-call]
        nats += loss.item()
    limit = math.inf if max_grad_norm is None else max_grad_norm
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit).item()
    if not (math.isfinite(nats) and math.isfinite(norm)):
        what = "loss" if not math.isfinite(nats) else "gradient"
        raise TrainingError(
            f"the {what} of epoch {epoch + 1}, batches {indices.start} to {indices.stop - 1}, is not a finite number",
            hint="lower training.learning_rate, or set training.max_grad_norm; the last checkpoint is sound",
        )
    optimizer.step()
    return nats, tokens, norm
