"""What the train stage leaves behind: the model folder, training_metrics.json and history.csv."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline import __version__, console
from pipeline.data.encoded import beside_model
from pipeline.files import output_folder, write_artefact
from pipeline.memory import memory_bytes
from pipeline.models.model import Model
from pipeline.models.store import BEST, FINAL, copy_weights, save_model
from pipeline.paths import OUTPUT_OF, REPORTS
from pipeline.records.ledger import LedgerWriter
from pipeline.spec import Spec, stage_values
from pipeline.stages.train_record import Record
from pipeline.stages.train_setup import Setup, inputs_of
from pipeline.tasks.table import TASKS
from pipeline.training.loop import Result
from pipeline.training.precision import in_float32

_FROM_METADATA = ("bos_id", "eos_id", "pad_id")  # pictures have none of them


def training_metrics(
    spec: Spec, setup: Setup, result: Result, *, identity: dict[str, str], record: Record
) -> dict[str, Any]:
    """What training_metrics.json says.

    Args:
        spec: the experiment.
        setup: of the run.
        result: of the loop.
        identity: `run_id` and `start_timestamp`.
        record: that received the events of the run.
    """
    progress = result.progress
    return {
        "format_version": 1,
        "toolkit_version": __version__,
        **identity,
        "end_timestamp": now(),
        "experiment": spec.name,
        "spec_hash": spec.hash(),
        "configuration": spec.to_dict(),
        "execution": setup.execution.to_dict(),
        "world": setup.describe_world(),
        **setup.describe_start(),
        "final_metrics": {
            "best_val_loss": progress.best_val_loss,
            "best_step": progress.best_step,
            "final_train_loss": progress.epoch_history[-1]["train_loss"],
            "final_val_loss": progress.last_val_loss,
            "bits_per_byte": progress.best_metrics.get("bits_per_byte"),
            "total_epochs": len(progress.epoch_history),
            "total_steps": progress.step,
            "total_tokens": progress.tokens,
            "stopped_early": progress.stopped_early,
            "skipped_steps": progress.skipped_steps,
            "overflowed_steps": progress.overflowed_steps,
            "rollbacks": progress.rollbacks,
            "vanishing_steps": progress.vanishing_steps,
            "exploding_steps": progress.exploding_steps,
            "micro_batch_rows": progress.micro_batch_rows,
            "parameters": sum(parameter.numel() for parameter in setup.model.parameters()),
            "tokens_per_second": round(progress.tokens / progress.step_seconds, 1),
            "training_seconds": round(progress.seconds, 1),
            "peak_rss_mb": round(memory_bytes()[1] / 1e6, 1),
        },
        "epoch_history": progress.epoch_history,
        "samples": record.samples(),
    }


def write_model(
    spec: Spec,
    setup: Setup,
    result: Result,
    *,
    model: Model,
    encoded: Path,
    metrics: dict[str, Any],
    record: Record,
    ledger: LedgerWriter,
) -> None:
    """Write `artifacts/model/` and the reports, and say how training went.

    Args:
        spec: the experiment.
        setup: of the run.
        result: of the loop.
        model: with the last weights, whole.
        encoded: the output folder of the tokenizer stage.
        metrics: of `training_metrics`.
        record: that received the events of the run.
        ledger: that saw its steps.
    """
    final = metrics["final_metrics"]
    description = {
        "model_name": spec.model.model_name,
        "task_type": spec.task.task_type,
        **TASKS[spec.task.task_type].kept(spec.section("task")),
        "model": setup.arguments,
        **{key: setup.held_out.metadata[key] for key in _FROM_METADATA if key in setup.held_out.metadata},
        "training": {
            "run_id": metrics["run_id"],
            "seconds": final["training_seconds"],
            "steps": final["total_steps"],
            "tokens": final["total_tokens"],
            "best_step": final["best_step"],
            "val_loss": final["best_val_loss"],
            **metrics["execution"],
        },
    }
    sections = stage_values(spec, "train", effects=("result", "output"))
    with output_folder(
        OUTPUT_OF["train"],
        stage="train",
        sections=sections,
        inputs=inputs_of(encoded, setup.start),
        spec_hash=spec.hash(),
    ) as folder:
        save_model(folder, in_float32(model), description, weights=FINAL)
        copy_weights(result.best_weights or folder / FINAL, folder / BEST)
        if spec.checkpointing.keep_best_only:
            (folder / FINAL).unlink()
        kept = [name for name in (BEST, FINAL) if (folder / name).exists()]
        ledger.finish(folder, steps=result.progress.step, weights=kept)
        write_artefact(folder / "spec.json", "spec", spec.to_dict())
        for name in beside_model(setup.held_out.metadata):
            shutil.copyfile(encoded / name, folder / name)
    write_artefact(REPORTS / "training_metrics.json", "training_metrics", metrics)
    write_artefact(REPORTS / "history.csv", "history", record.history())
    seconds = console.duration(final["training_seconds"])
    best = "" if final["best_val_loss"] is None else f"best validation loss {final['best_val_loss']:.4f}, "
    console.say(f"trained in {seconds}: {best}{final['tokens_per_second']:,.0f} tokens/s")


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
