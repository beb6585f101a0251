"""What the loop takes, from a spec and its setup: the same for the train stage and for training from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import FoundryError
from pipeline.revision import revision
from pipeline.spec import Spec
from pipeline.stages.train_setup import Setup, tokenizer_hash
from pipeline.training.averaging import keep_mean
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.events import Event
from pipeline.training.ledger import NOBODY, Witness
from pipeline.training.loop import Result, train
from pipeline.training.optimizer import learning_rate_at, make_optimizer, warmup_length
from pipeline.training.precision import PRECISIONS
from pipeline.training.saver import Saver


def run_loop(
    spec: Spec,
    setup: Setup,
    optimizer: torch.optim.Optimizer,
    *,
    evaluate: Callable[[], Mapping[str, float]] | None,
    eval_every_n_steps: int | None,
    saver: Saver,
    checkpoint: Checkpoint | None,
    emit: Callable[[Event], None],
    stop: Callable[[], FoundryError | None],
    started: float,
    witness: Witness = NOBODY,
) -> Result:
    """Train as a spec says. See `pipeline.training.loop.train`, which the other arguments go to.

    Args:
        spec: the experiment.
        setup: made for it.
        optimizer: from `optimizer_of`.
        evaluate: see there, as for all that follow.
        eval_every_n_steps: of the spec or, from Python, of the evaluation.
        saver: of this model and optimizer.
        checkpoint: to go on from.
        emit: receives every event.
        stop: asked after each step.
        started: when this process began to work on the run.
        witness: sees every step.
    """
    training = spec.training
    return train(
        model=setup.model,
        optimizer=optimizer,
        batches=setup.batches,
        loss_sum=setup.loss,
        learning_rate=learning_rate_of(spec, setup.total_steps),
        evaluate=evaluate,
        saver=saver,
        checkpoint=checkpoint,
        total_steps=setup.total_steps,
        accumulation=training.gradient_accumulation_steps,
        max_grad_norm=training.max_grad_norm,
        scale_loss=PRECISIONS[setup.execution.precision].scaled,
        on_nonfinite=training.on_nonfinite,
        eval_every_n_steps=eval_every_n_steps,
        patience=training.early_stopping_patience,
        min_delta=training.early_stopping_min_delta,
        emit=emit,
        stop=stop,
        started=started,
        rows=setup.rows,
        try_first=spec.reproducibility.deterministic and setup.world.size == 1,
        world=setup.world,
        witness=witness,
    )


def metadata_of(spec: Spec, setup: Setup, encoded: Path, *, steps_per_epoch: int) -> dict[str, Any]:
    """What the metadata of every checkpoint says of the run."""
    return {
        "experiment": spec.name,
        "spec_hash": spec.hash(),
        "tokenizer": tokenizer_hash(encoded),
        "git": revision(Path.cwd()),
        "parameters": sum(parameter.numel() for parameter in setup.model.parameters()),
        "tokens_per_step": round(setup.batches.targets_per_epoch / steps_per_epoch),
        "effective_batch": spec.training.batch_size * setup.shares * spec.training.gradient_accumulation_steps,
    }


def optimizer_of(spec: Spec, setup: Setup) -> torch.optim.Optimizer:
    """The optimizer of a run, with a running mean of the weights if the spec asks for one."""
    optimizer = make_optimizer(
        setup.model,
        learning_rate=spec.training.learning_rate,
        products=torch.bfloat16 if setup.execution.precision.startswith("bf16") else torch.float32,
        **spec.section("optimizer"),
    )
    if spec.training.ema_decay is not None:
        keep_mean(optimizer, spec.training.ema_decay)
    return optimizer


def learning_rate_of(spec: Spec, total_steps: int) -> Callable[[int], float]:
    """The learning rate of each step of a run, counted from 1."""
    return partial(
        learning_rate_at,
        total_steps=total_steps,
        peak=spec.training.learning_rate,
        schedule=spec.scheduler.scheduler_type,
        warmup_steps=warmup_length(
            total_steps=total_steps,
            warmup_ratio=spec.scheduler.warmup_ratio,
            warmup_steps=spec.scheduler.warmup_steps,
        ),
        min_lr_ratio=spec.scheduler.min_lr_ratio,
        decay_ratio=spec.scheduler.decay_ratio,
    )
