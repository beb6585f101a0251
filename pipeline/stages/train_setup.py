"""What a training run is made of: task, model, batches, what it executes on, and the loss, built from a spec."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline import console
from pipeline.data.batches import BatchSource
from pipeline.data.encoded import EncodedSplit, read_encoded
from pipeline.errors import TrainingError
from pipeline.files import manifest_hash, sha256_file
from pipeline.models.model import Model
from pipeline.models.table import arguments_of, build_model
from pipeline.spec import Spec
from pipeline.tasks.table import TASKS
from pipeline.tasks.task import Task
from pipeline.training import hardware
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.distributed import World, share_of_threads
from pipeline.training.exact import arithmetic_of
from pipeline.training.hardware import Execution, choose_execution
from pipeline.training.loop import planned_steps
from pipeline.training.precision import arithmetic, convert_weights, in_float32
from pipeline.training.warm_start import Start, start_from

TOKENIZER = "tokenizer.model"  # of an encoded corpus of text


@dataclass(frozen=True)
class Setup:
    """Everything that the loop needs and that does not change while it runs.

    Attributes:
        task: what is learned.
        model: in training mode, on its device.
        arguments: of the model's class.
        batches: of the training split.
        held_out: the validation split; it may be empty.
        total_steps: optimizer steps of the whole run.
        execution: device, precision, threads, and the compile mode that really runs.
        loss: the tensors of a batch → the sum of the loss, at the run's precision, compiled if the run compiles.
        rows: most rows of a micro-batch; None takes a rank's part of a batch at once.
        world: the ranks that train together.
        shares: devices whose rows make up a batch, whatever the number of ranks.
        start: what the weights were before the first step; None: random.
    """

    task: Task
    model: Model
    arguments: dict[str, Any]
    batches: BatchSource
    held_out: EncodedSplit
    total_steps: int
    execution: Execution
    loss: Callable[..., Tensor]
    rows: int | None
    world: World
    shares: int
    start: Start | None

    def evaluate(self) -> dict[str, float]:
        """The metrics of the validation split, in float32 whatever the training precision.

        All ranks call this together. The first one does the work, so that the figures are those of one process, bit
        for bit; the others wait.
        """
        model = self.world.whole(self.model)
        return self.world.from_first(partial(self._evaluate, model))

    def _evaluate(self, model: Model) -> dict[str, float]:
        model.eval()
        found = self.task.evaluate(in_float32(model), self.held_out)
        model.train()
        return found.to_dict()

    def describe_world(self) -> dict[str, Any]:
        """How training is spread, for checkpoints and reports."""
        return {"strategy": self.world.strategy, "processes": self.world.size, "devices": self.shares}

    def describe_start(self) -> dict[str, Any]:
        """What the run began with, for checkpoints and reports; of random weights there is nothing to say."""
        return {} if self.start is None else {"start": self.start.to_dict()}


def set_up(
    spec: Spec, encoded: Path, checkpoint: Checkpoint | None, start: Start | None, *, world: World, shares: int
) -> Setup:
    """Build a run.

    Args:
        spec: the experiment.
        encoded: the verified output folder of its tokenizer stage.
        checkpoint: that the run will go on from; what was measured then is not measured again.
        start: what a run without a checkpoint begins with; None: random weights.
        world: the ranks that train together.
        shares: devices whose rows make up a batch.

    Raises:
        TrainingError: this machine cannot do what the spec insists on, or the weights to start from do not fit it.
        ArtifactError: there is too little to learn from.
    """
    training, seed = spec.training, spec.reproducibility.random_seed
    if spec.reproducibility.deterministic:
        hardware.make_deterministic()
    hardware.keep_freed_memory()
    seed_everything(seed)

    task, arguments, batches = open_task(spec, encoded, shares=shares)
    model = build_model(arguments)
    if start is not None and checkpoint is None:
        start_from(start, model, arguments=arguments, tokenizer=tokenizer_hash(encoded))
    total_steps = planned_steps(
        batches_per_epoch=batches.per_epoch,
        accumulation=training.gradient_accumulation_steps,
        epochs=training.epochs,
        max_steps=training.max_steps,
    )
    rows_per_step = training.batch_size * shares * training.gradient_accumulation_steps
    flops = model.flops_per_row() * rows_per_step * total_steps
    passes = training.gradient_accumulation_steps * math.ceil(shares / world.size)
    execution = _execution(spec, flops=flops, passes=passes, checkpoint=checkpoint, world=world)
    if execution.device == "cuda":
        hardware.multiply_in_tf32(spec.hardware.use_tf32)
    model.recompute = spec.hardware.use_gradient_checkpointing
    convert_weights(model, execution.precision)
    model.to(execution.device).train()
    world.spread(model)
    rows = training.batch_size if training.batch_size < world.largest_share(training.batch_size * shares) else None
    example = [tensor[:rows] for tensor in map(world.share, batches.batch(0, 0))]
    loss, execution = prepare_loss(
        partial(task.loss, model),
        model,
        execution,
        example,
        fullgraph=spec.hardware.compile_fullgraph,
        dynamic=spec.hardware.compile_dynamic,
        insist=spec.hardware.compile_mode not in ("auto", None),
    )
    if spec.reproducibility.deterministic and world.size == 1 and spec.training.resume_from_checkpoint is None:
        tried = example if execution.compile_mode else [tensor[:1] for tensor in example]  # one row fits where any does
        found = arithmetic_of(loss, model, [tensor.to(execution.device) for tensor in tried])
        execution = replace(execution, arithmetic=found)
    return Setup(
        task=task,
        model=model,
        arguments=arguments,
        batches=batches,
        held_out=read_encoded(encoded, "validation"),
        total_steps=total_steps,
        execution=execution,
        loss=loss,
        rows=rows,
        world=world,
        shares=shares,
        start=start,
    )


def open_task(spec: Spec, encoded: Path, *, shares: int) -> tuple[Task, dict[str, Any], BatchSource]:
    """The task of a spec, the arguments of its model's class, and the batches of the training split.

    Args:
        spec: the experiment.
        encoded: the verified output folder of its tokenizer stage.
        shares: devices, each of which puts `training.batch_size` rows into a batch.
    """
    task_type = TASKS[spec.task.task_type]
    split = read_encoded(encoded, "train")
    arguments = arguments_of(spec.section("model"), task_type.sizes(split.metadata))
    task = task_type.task(encoded, arguments, spec.section("task"))
    rows = spec.training.batch_size * shares
    batches = task.batches(split, batch_size=rows, seed=spec.reproducibility.random_seed)
    return task, arguments, batches


def inputs_of(encoded: Path, start: Start | None) -> dict[str, str]:
    """Name and SHA-256 of what a model is trained from."""
    weights = {} if start is None else {"start": start.sha256}
    return {"tokenizer": manifest_hash(encoded), **weights}


def tokenizer_hash(encoded: Path) -> str | None:
    """SHA-256 of the tokenizer model of an encoded corpus; None: it has none, as of pictures."""
    tokenizer = encoded / TOKENIZER
    return sha256_file(tokenizer) if tokenizer.exists() else None


def seed_everything(seed: int) -> None:
    """Seed every generator that a library may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - whatever a library draws from it should be the same again
    torch.manual_seed(seed)


def _execution(spec: Spec, *, flops: float, passes: int, checkpoint: Checkpoint | None, world: World) -> Execution:
    """What every rank executes on; what has to be measured, the first one measures for all."""
    if spec.hardware.compile_mode == "auto" and hardware.worth_compiling(flops) and not hardware.has_compiler():
        console.warn("without a C++ compiler the model is not compiled and trains slower: install g++")
    choose = partial(
        choose_execution,
        device=spec.hardware.device,
        precision=spec.hardware.precision,
        use_amp=spec.hardware.use_amp,
        compile_mode=None if world.strategy == "fsdp" else spec.hardware.compile_mode,
        num_threads=spec.hardware.num_threads or share_of_threads(hardware.usable_processors()),
        flops=flops,
        passes=passes,
    )
    earlier = checkpoint.state["execution"] if checkpoint else None
    return choose(earlier=world.from_first(lambda: choose(earlier=earlier).to_dict()))


def prepare_loss(
    loss: Callable[..., Tensor],
    model: Model,
    execution: Execution,
    example: Sequence[Tensor],
    *,
    fullgraph: bool,
    dynamic: bool,
    insist: bool,
) -> tuple[Callable[..., Tensor], Execution]:
    """The loss of a batch at the run's precision, compiled if the run compiles and the machine can.

    Args:
        loss: the tensors of a batch → the sum of its loss.
        model: that it computes with.
        execution: what the run executes on.
        example: a micro-batch, on which compilation is tried.
        fullgraph: see torch.compile, as for the next.
        dynamic: shapes may change.
        insist: a compiler that does not work is an error, not a warning.

    Raises:
        TrainingError: the compiler does not work, and the run insists on it.
    """

    def plain(*batch: Tensor) -> Tensor:
        with arithmetic(execution.device, execution.precision):
            return loss(*batch)

    if execution.compile_mode is None:
        return plain, execution
    console.say(f"compiling the model ({execution.compile_mode}); kernels are kept for later runs")
    began = time.monotonic()
    compiled = torch.compile(plain, mode=execution.compile_mode, fullgraph=fullgraph, dynamic=dynamic)
    try:
        with hardware.keeping_random_states(execution.device):  # a trial must leave no trace in the run
            trial = compiled(*(tensor.to(execution.device) for tensor in example))
            trial.backward()  # type: ignore[no-untyped-call]
    except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:  # noqa: SLF001
        reason = str(error).strip().splitlines()[0]
        if insist:
            hint = "install what it asks for, or set hardware.compile_mode to auto or null"
            raise TrainingError(f"torch.compile does not work here: {reason}", hint=hint) from error
        console.warn(f"torch.compile does not work here, training runs eager and slower: {reason}")
        model.zero_grad(set_to_none=True)
        return plain, replace(execution, compile_mode=None)
    model.zero_grad(set_to_none=True)
    console.say(f"compiled in {console.duration(time.monotonic() - began)}")
    return compiled, execution
