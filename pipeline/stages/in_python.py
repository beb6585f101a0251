"""Training from a notebook or a script: the loop of the train stage, on a model and a task that the caller made."""

from __future__ import annotations

import math
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import nn

from pipeline.data.encoded import EncodedSplit, read_encoded
from pipeline.errors import TrainingError
from pipeline.files import canonical_json, manifest_hash, sha256_bytes, verify_manifest
from pipeline.models.model import Model
from pipeline.paths import OUTPUT_OF
from pipeline.spec import Spec
from pipeline.spec.flat import TrainingConfig, plain_spec
from pipeline.stages.train_loop import metadata_of, optimizer_of, run_loop
from pipeline.stages.train_result import now
from pipeline.stages.train_setup import Setup, prepare_loss, seed_everything
from pipeline.tasks.task import Task
from pipeline.training.distributed import ALONE
from pipeline.training.events import Event, StepDone
from pipeline.training.hardware import choose_execution
from pipeline.training.loop import planned_steps
from pipeline.training.saver import Saver

# What a task document calls a metric → how it is had from what a task measures.
_METRICS: Mapping[str, Callable[[Mapping[str, float]], float]] = {
    "loss": lambda found: found["val_loss"],
    "perplexity": lambda found: math.exp(found["val_loss"]),
    "f1": lambda found: found["macro_f1"],
}


@dataclass(frozen=True)
class TrainingResults:
    """What a training from Python comes to. The model holds the weights of the last step.

    Attributes:
        eval_summary: the metrics that the task asks for, after the last step, by the names of the task.
        evaluations: the same before the first step, if asked for, and after each evaluation: step → metrics.
        losses: the training loss of each step, in nats per target.
        total_steps: optimizer steps that were done.
        best_step: the step with the lowest validation loss.
    """

    eval_summary: dict[str, float]
    evaluations: dict[int, dict[str, float]]
    losses: list[float]
    total_steps: int
    best_step: int | None


def run_training(
    model: nn.Module,
    adapter: Task,
    training_cfg: TrainingConfig | Spec,
    task_spec: Spec,
    eval_cfg: Spec,
    *,
    encoded: Path = OUTPUT_OF["tokenizer"],
) -> TrainingResults:
    """Train a model of your own with the loop of the train stage; nothing is kept on disk.

    Args:
        model: takes what the batches of the task hold; it is trained in place, in eager mode.
        adapter: the task.
        training_cfg: of which the sections training, optimizer, scheduler, hardware and reproducibility are read.
        task_spec: a document of kind `task`: which metrics are wanted, and how many classes there are.
        eval_cfg: a document of kind `evaluation`: which split, at most how many of its documents, every how many steps,
            and whether before the first. How many rows are scored at once is the task's business.
        encoded: the output folder of the tokenizer stage.

    Raises:
        ArtifactError: the encoded corpus is missing or damaged.
        TrainingError: the task asks for other classes than the corpus has or for a metric that it does not measure, the
            split has no documents, the spec names weights to start from (the model has its own), or training cannot go
            on.
    """
    started = time.monotonic()
    spec = plain_spec(training_cfg)
    if spec.training.resume_from_checkpoint is not None:
        hint = "set it to null, and give the model the weights itself: pipeline.models.store.load_model reads them"
        raise TrainingError("training.resume_from_checkpoint is not for a model of your own", hint=hint)
    verify_manifest(encoded, rebuild="foundry run --from tokenizer --force")
    setup = _set_up(model, adapter, spec, encoded, _held_out(encoded, task_spec, eval_cfg))
    evaluations: dict[int, dict[str, float]] = {}
    losses: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, StepDone):
            losses.append(event.loss)
            if event.metrics:
                evaluations[event.step] = _summary(event.metrics, task_spec)

    evaluations[0] = _summary(setup.evaluate(), task_spec)  # always: a metric that is not there is said at once
    if not eval_cfg.eval_on_start:
        evaluations.clear()
    optimizer = optimizer_of(spec, setup)
    with tempfile.TemporaryDirectory(prefix="foundry-training-") as folder:
        result = run_loop(
            spec,
            setup,
            optimizer,
            evaluate=setup.evaluate,
            eval_every_n_steps=eval_cfg.eval_interval_steps,
            saver=Saver(
                run_folder=Path(folder),
                model=setup.model,
                optimizer=optimizer,
                total_steps=setup.total_steps,
                state=_state(spec, setup, encoded),
                metadata={"run_id": str(uuid.uuid4()), **metadata_of(spec, setup, encoded, steps_per_epoch=1)},
                emit=note,
            ),
            checkpoint=None,
            emit=note,
            stop=lambda: None,
            started=started,
        )
    done = result.progress.step
    return TrainingResults(evaluations[done], evaluations, losses, done, result.progress.best_step)


def _set_up(model: nn.Module, adapter: Task, spec: Spec, encoded: Path, held_out: EncodedSplit) -> Setup:
    training = spec.training
    seed_everything(spec.reproducibility.random_seed)
    batches = adapter.batches(
        read_encoded(encoded, "train"), batch_size=training.batch_size, seed=spec.reproducibility.random_seed
    )
    execution = choose_execution(
        device=spec.hardware.device,
        precision=spec.hardware.precision,
        use_amp=spec.hardware.use_amp,
        compile_mode=None,
        num_threads=spec.hardware.num_threads,
        flops=0.0,
    )
    ours = cast("Model", model.to(execution.device).train())  # the loop asks nothing of it that a module has not
    loss, execution = prepare_loss(
        partial(adapter.loss, ours), ours, execution, (), fullgraph=False, dynamic=False, insist=False
    )
    return Setup(
        task=adapter,
        model=ours,
        arguments={},
        batches=batches,
        held_out=held_out,
        total_steps=planned_steps(
            batches_per_epoch=batches.per_epoch,
            accumulation=training.gradient_accumulation_steps,
            epochs=training.epochs,
            max_steps=training.max_steps,
        ),
        execution=execution,
        loss=loss,
        rows=None,
        world=ALONE,
        shares=1,
        start=None,
    )


def _held_out(encoded: Path, task_spec: Spec, eval_cfg: Spec) -> EncodedSplit:
    split = read_encoded(encoded, eval_cfg.split)
    if not split.documents:
        hint = f"give dataset.{eval_cfg.split}_split a larger share, or choose another split"
        raise TrainingError(f"the {eval_cfg.split} split has no documents to evaluate on", hint=hint)
    asked, there = task_spec.output_schema.num_classes, split.metadata.get("classes")
    if asked is not None and there is not None and asked != len(there):
        message = f"the task {task_spec.name} has {asked} classes, and the corpus {len(there)}: {', '.join(there)}"
        raise TrainingError(message, hint="correct output_schema.num_classes")
    return split.first(eval_cfg.max_eval_examples)


def _summary(found: Mapping[str, float], task_spec: Spec) -> dict[str, float]:
    try:
        return {name: _METRICS.get(name, lambda values, n=name: values[n])(found) for name in task_spec.metrics}
    except KeyError as error:
        hint = f"it measures {', '.join(found)}; correct metrics"
        raise TrainingError(f"the task {task_spec.name} does not measure {error.args[0]}", hint=hint) from error


def _state(spec: Spec, setup: Setup, encoded: Path) -> dict[str, Any]:
    mark = canonical_json({"settings": spec.to_dict(), "inputs": manifest_hash(encoded)})
    return {
        "run_id": str(uuid.uuid4()),
        "start_timestamp": now(),
        "fingerprint": sha256_bytes(mark.encode()),
        "spec": spec.to_dict(),
        "execution": setup.execution.to_dict(),
        "world": setup.describe_world(),
    }
