"""The training loop: batches in, better weights out, exactly the same whether or not it was interrupted.

It knows no console, file formats or signals: it emits events, asks a callable whether to stop, and evaluates
through a callable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.data.batches import BatchSource
from pipeline.errors import FoundryError, TrainingError
from pipeline.training.averaging import mean_state
from pipeline.training.checkpoint import Checkpoint, restore
from pipeline.training.distributed import ALONE, World
from pipeline.training.events import Event, LossScaleLowered, MicroBatchShrunk, OddGradient, StepDone, StepSkipped
from pipeline.training.finite import require_finite
from pipeline.training.ledger import NOBODY, Witness
from pipeline.training.optimizer import set_learning_rate
from pipeline.training.precision import LossScale
from pipeline.training.progress import Progress
from pipeline.training.saver import Saver
from pipeline.training.step import Gradients, Stepper

Policy = Literal["stop", "skip", "rollback"]  # what to do about a step whose loss or gradient is not finite

MOST_FLAWED_STEPS = 3  # in a row; more is no accident
VANISHING, EXPLODING = 1e-7, 10.0  # gradient norms (L2, before clipping) that people want to hear of


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
    loss_sum: Callable[..., Tensor],
    learning_rate: Callable[[int], float],
    evaluate: Callable[[], Mapping[str, float]] | None,
    saver: Saver,
    checkpoint: Checkpoint | None,
    total_steps: int,
    accumulation: int,
    max_grad_norm: float | None,
    scale_loss: bool,
    on_nonfinite: Policy,
    eval_every_n_steps: int | None,
    patience: int | None,
    min_delta: float,
    emit: Callable[[Event], None],
    stop: Callable[[], FoundryError | None],
    started: float,
    rows: int | None = None,
    try_first: bool = False,
    world: World = ALONE,
    witness: Witness = NOBODY,
) -> Result:
    """Train a model to the end, or until asked to stop.

    Args:
        model: in training mode, on its device.
        optimizer: over the model's parameters.
        batches: see `BatchSource`.
        loss_sum: the tensors of a batch → sum of the loss over its targets, in nats.
        learning_rate: of an optimizer step, counted from 1.
        evaluate: metrics of held-out data, `val_loss` in nats per target among them, leaving all random states alone;
            None: there is none.
        saver: of this model and optimizer.
        checkpoint: to go on from.
        total_steps: optimizer steps of the whole run, from `planned_steps`.
        accumulation: batches of an optimizer step.
        max_grad_norm: gradients are scaled down to this norm; None never.
        scale_loss: whether gradients are float16 on their way, and need a larger loss to be seen at all. A step whose
            gradients overflow at the present scale is not taken; that is not the business of `on_nonfinite`.
        on_nonfinite: about a step whose loss or gradient is not finite, which is never taken: `stop` ends the run,
            `skip` goes on with the next data, `rollback` does so with the weights, moments and random states of the
            newest checkpoint. Three in a row end the run in any case.
        eval_every_n_steps: None evaluates at the end of each epoch. The last step is always evaluated.
        patience: evaluations in a row without gain that end the run (0 is as 1); None never.
        min_delta: by how much a loss must be lower to be a gain, in nats per token.
        emit: receives every event.
        stop: asked after each step; an error it returns is raised once a checkpoint is saved.
        started: `time.monotonic()` of when this process began to work on the run.
        rows: most rows of a micro-batch; None takes this rank's part of a batch at once.
        try_first: whether the first batch of this process is tried twice, and must give the same gradients.
        world: the ranks that train together. All of them call this with the same arguments; evaluations and stops are
            agreed on by the callables, events are for the first rank.
        witness: sees every step.

    Raises:
        TrainingError: the loss or a gradient is not finite and the policy or its patience ends the run; or memory does
            not suffice for a single row.
    """
    progress = _resumed(checkpoint, model, optimizer, world)
    earlier = progress.seconds
    saver.begin(checkpoint, progress)

    def shrunk(rows: int) -> None:
        progress.micro_batch_rows = rows
        emit(MicroBatchShrunk(progress.step + 1, rows))

    device = next(model.parameters()).device.type
    scale = LossScale(device, enabled=scale_loss, value=progress.loss_scale, steps=progress.loss_scale_steps)
    stepper = Stepper(
        model,
        optimizer,
        batches,
        loss_sum,
        max_grad_norm=max_grad_norm,
        rows=progress.micro_batch_rows or rows,
        on_smaller=shrunk,
        scale=scale,
        try_first=try_first,
        world=world,
    )
    while progress.step < total_steps and not progress.stopped_early:
        began = time.monotonic()
        epoch, first = progress.epoch, progress.cursor
        last = min(first + accumulation, batches.per_epoch)
        rate = learning_rate(progress.step + 1)
        set_learning_rate(optimizer, rate)
        found = stepper.gradients(epoch, range(first, last), witness.mark_at(progress.step + 1))
        progress.loss_scale, progress.loss_scale_steps = scale.value, scale.steps
        if found.usable:
            _weigh(found.norm, progress, emit)
            stepper.apply()
            seconds = time.monotonic() - began
            progress.count(nats=found.nats, tokens=found.tokens, seconds=seconds, cursor=last)
        else:
            stepper.discard()
            _pass_over(found, progress, saver, policy=on_nonfinite, indices=range(first, last), emit=emit)
        witness.saw(progress.step, epoch=epoch + 1, batch=first + 1, found=found)

        epoch_ends = last == batches.per_epoch
        run_ends = progress.step == total_steps
        due = epoch_ends if eval_every_n_steps is None else progress.step % eval_every_n_steps == 0
        metrics = evaluate() if evaluate is not None and (due or run_ends) else {}
        val_loss = metrics.get("val_loss")
        improved = bool(metrics) and progress.judge(metrics, min_delta=min_delta, patience=patience)
        if found.usable:
            emit(
                StepDone(
                    step=progress.step,
                    total_steps=total_steps,
                    epoch=epoch + 1,
                    loss=found.nats / found.tokens,
                    learning_rate=rate,
                    gradient_norm=found.norm,
                    tokens_per_second=found.tokens / seconds,
                    val_loss=val_loss,
                    improved=improved,
                    metrics=metrics,
                )
            )
        if epoch_ends or run_ends or progress.stopped_early:
            seconds = earlier + time.monotonic() - started
            emit(progress.end_epoch(val_loss=val_loss, lr=rate, whole=epoch_ends, seconds=seconds))

        progress.seconds = earlier + time.monotonic() - started
        saver.after_step(progress, metrics=metrics, improved=improved, epoch_ended=epoch + 1 if epoch_ends else None)
        if (reason := stop()) is not None:
            saver.save_once(progress)
            raise reason

    if not progress.tokens:
        message = "no step was taken: the loss or the gradients of each were not finite, or too large for float16"
        raise TrainingError(message, hint="train for more steps, or lower training.learning_rate")
    # The last step may be followed by no evaluation and no save.
    require_finite(model.state_dict(), what="weight")
    require_finite(mean_state(model, optimizer), what="running mean of")
    saver.after_run(progress)
    return Result(progress=progress, total_steps=total_steps, best_weights=saver.best)


def _resumed(
    checkpoint: Checkpoint | None, model: nn.Module, optimizer: torch.optim.Optimizer, world: World
) -> Progress:
    """Where a run stands, with everything else in its place."""
    if checkpoint is None:
        return Progress()
    restore(checkpoint, model=model, optimizer=optimizer, world=world)
    return Progress(**checkpoint.state["progress"])


def _weigh(norm: float, progress: Progress, emit: Callable[[Event], None]) -> None:
    """Count a gradient norm that is out of the ordinary, and tell of the first of its kind."""
    if norm < VANISHING:
        progress.vanishing_steps += 1
        if progress.vanishing_steps == 1:
            emit(OddGradient(progress.step + 1, norm, "vanishing"))
    elif norm > EXPLODING:
        progress.exploding_steps += 1
        if progress.exploding_steps == 1:
            emit(OddGradient(progress.step + 1, norm, "exploding"))


def _pass_over(
    found: Gradients,
    progress: Progress,
    saver: Saver,
    *,
    policy: Policy,
    indices: range,
    emit: Callable[[Event], None],
) -> None:
    """Go on without a step that cannot be taken, or end the run if it must not be passed over."""
    if found.flaw:
        _refuse_flaw(found, progress, policy=policy, indices=indices)
        progress.skip(cursor=indices.stop)
        back = saver.roll_back(progress) if policy == "rollback" else None
        emit(StepSkipped(progress.step, progress.epoch + 1, found.flaw, back))
    else:
        assert progress.loss_scale is not None  # else there would be nothing to overflow at
        progress.overflow(cursor=indices.stop)
        emit(LossScaleLowered(progress.step, progress.loss_scale))


def _refuse_flaw(found: Gradients, progress: Progress, *, policy: Policy, indices: range) -> None:
    """End the run over a loss or gradient that is not finite, if the policy or its patience says so."""
    what = f"the {found.flaw} of epoch {progress.epoch + 1}, batches {indices.start} to {indices.stop - 1}"
    hint = "lower training.learning_rate, or set training.max_grad_norm; the last checkpoint is sound"
    if policy == "stop":
        raise TrainingError(f"{what}, is not a finite number", hint=hint)
    if progress.flawed_in_a_row + 1 >= MOST_FLAWED_STEPS:
        message = f"{what}, is not a finite number, and neither were those of the {MOST_FLAWED_STEPS - 1} steps before"
        raise TrainingError(message, hint=hint)
