"""Tier 3: can the model still learn? Short fits of a copy of it, which is thrown away."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pipeline.data.batches import IGNORED, Batch
from pipeline.tiers.examples import learnable_batch, random_batch
from pipeline.tiers.subject import Outcome, Subject
from pipeline.training.optimizer import adamw

_ROWS, _LENGTH = 8, 32
_TASK_ROWS = 32  # of the tiny task: enough targets even where an eighth of the tokens are some
_STEPS = 300  # of the tiny task, at most: a decoder needs 20, an encoder with norms after each sublayer 100
_RATE = 3e-3
_CLIPPED = 1.0  # norm of the gradients of a step
_FRESH = 1_000_000  # seed of the batch that the tiny task is judged on, beyond those of its steps


@dataclass(frozen=True)
class Fit:
    """What a short fit came to, in nats per target.

    Attributes:
        before: loss before the first step.
        after: loss after the last.
        steps: how many there were.
    """

    before: float
    after: float
    steps: int


def tiny_task(subject: Subject) -> Outcome:
    """A few steps on a rule that can be learned make the loss lower than guessing by frequency."""
    length = subject.length(_LENGTH)
    unseen = learnable_batch(subject, _TASK_ROWS, length, seed=_FRESH)
    baseline = _by_frequency(unseen)

    def batch_of(step: int) -> Batch:
        return learnable_batch(subject, _TASK_ROWS, length, seed=step)

    fit = _fit(subject, batch_of, unseen, steps=_STEPS, enough=baseline / 2)
    details = {"before": _json(fit.before), "after": _json(fit.after), "baseline": baseline, "steps": fit.steps}
    measured = f"{fit.steps} steps take the loss from {fit.before:.3f} to {fit.after:.3f} nats"
    limit = f"less than before, and than {baseline:.3f} nats of guessing by frequency"
    learned = fit.after < min(fit.before, baseline)
    return Outcome("passed" if learned else "failed", measured, limit, details)


def one_batch(subject: Subject) -> Outcome:
    """The model learns one batch by heart."""
    settings = subject.settings["short_fit"]
    batch = random_batch(subject, _ROWS, subject.length(_LENGTH))
    fit = _fit(subject, lambda _step: batch, batch, steps=settings["max_steps"], enough=settings["max_loss"])
    details = {"before": _json(fit.before), "after": _json(fit.after), "steps": fit.steps}
    measured = f"the loss falls from {fit.before:.3f} to {fit.after:.3f} nats in {fit.steps} steps"
    limit = f"{settings['max_loss']:g} nats within {settings['max_steps']} steps"
    return Outcome("passed" if fit.after <= settings["max_loss"] else "failed", measured, limit, details)


def _fit(subject: Subject, batch_of: Callable[[int], Batch], judged: Batch, *, steps: int, enough: float) -> Fit:
    """Train a copy of the model, without dropout, until its loss is low enough or the steps are over."""
    model = copy.deepcopy(subject.model)
    optimizer = adamw(model, learning_rate=_RATE, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.0)

    def loss(batch: Batch) -> torch.Tensor:
        return subject.task.loss(model, *batch) / (batch[-1] != IGNORED).sum()

    def judge() -> float:
        with torch.no_grad():
            return float(loss(judged))

    before = after = judge()
    for step in range(steps):
        if after <= enough or not math.isfinite(after):
            return Fit(before, after, step)
        optimizer.zero_grad()
        loss(batch_of(step)).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIPPED)
        optimizer.step()
        after = judge()
    return Fit(before, after, steps)


def _by_frequency(batch: Batch) -> float:
    """The loss of who knows how often each target occurs in a batch, and nothing else, in nats per target."""
    targets = batch[-1][batch[-1] != IGNORED]
    counts = targets.bincount().double()
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * shares.log()).sum())


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None
