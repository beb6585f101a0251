"""What the training loop tells of while it runs: plain values for whoever records, shows or watches them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
    val_loss: float | None  # nats per target
    improved: bool
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the evaluation, `val_loss` among them


@dataclass(frozen=True)
class EpochDone:
    """The end of a pass over the training split."""

    epoch: int
    train_loss: float | None  # None: none of its steps was taken
    val_loss: float | None
    lr: float
    seconds: float  # spent on it, by all processes of the run


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint is on disk."""

    step: int
    seconds: float


@dataclass(frozen=True)
class StepSkipped:
    """A step that was not taken, because its loss or gradient is not a finite number."""

    step: int
    epoch: int  # from 1
    flaw: str  # loss or gradient
    rolled_back_to: int | None  # the step whose weights training goes on with; None: those before this step


@dataclass(frozen=True)
class LossScaleLowered:
    """A step that was not taken, because its scaled gradients overflowed float16: the price of a large loss scale."""

    step: int
    scale: float  # from now on


@dataclass(frozen=True)
class OddGradient:
    """A gradient norm beyond what is usual, for the first time."""

    step: int
    norm: float
    kind: str  # vanishing or exploding


@dataclass(frozen=True)
class MicroBatchShrunk:
    """Memory ran out; the step is taken again in smaller pieces."""

    step: int
    rows: int  # of a micro-batch from now on


Event = StepDone | EpochDone | CheckpointSaved | StepSkipped | LossScaleLowered | OddGradient | MicroBatchShrunk
