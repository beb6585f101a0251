"""Validation of a trained model: held-out loss, baselines, samples, memory, latency and budgets, in one report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.encoded import METADATA, EncodedSplit, beside_model, read_encoded, read_metadata
from pipeline.errors import ArtifactError, ValidationError
from pipeline.evaluation.baselines import BASELINES
from pipeline.evaluation.budgets import Verdict, as_dicts, judge, overall
from pipeline.evaluation.metrics import quantile, reported
from pipeline.files import sha256_file, verify_manifest
from pipeline.models.store import BEST, read_model
from pipeline.tasks.picture_task import PictureTask
from pipeline.tasks.table import TASKS

# (model folder, prompt) → `rss_bytes` at rest, `peak_bytes`, `latencies_ms` of each answer and `threads` of inference.
Measure = Callable[[Path, str], Mapping[str, Any]]

REPORT_FORMAT = 1
_MB = 1_000_000  # bytes
_REBUILD_TOKENIZER = "foundry run --from tokenizer --force"
_REBUILD_MODEL = "foundry run --from train --force"


@dataclass(frozen=True)
class Validation:
    """The outcome: a report for people and for git, the verdicts in it, and every single latency measured."""

    report: dict[str, Any]
    verdicts: list[Verdict]
    latencies_ms: list[float]


def validate_model(
    *,
    model_folder: Path,
    tokenizer_folder: Path,
    split: str,
    prompts: Sequence[str],
    max_new_tokens: int,
    temperature: float,
    generation_seed: int,
    budgets: Mapping[str, float | None],
    measure: Measure,
) -> Validation:
    """Judge a trained model. Nothing is written, and a missed budget is not an error yet.

    Args:
        model_folder: of the train stage.
        tokenizer_folder: of the tokenizer stage; holds the encoded splits.
        split: `validation` or `test`.
        prompts: texts to continue, at least one; the first is also what memory and latency are measured with. For
            pictures, the first held-out ones take their place.
        max_new_tokens: tokens generated for each prompt.
        temperature: of the sampling; 0 takes the likeliest token.
        generation_seed: of the sampling.
        budgets: upper limits, None for none; names and units as in `budgets.BUDGETS`.
        measure: finds what inference takes.

    Raises:
        ArtifactError: the model or the tokenizer is damaged, or they do not belong together.
        ValidationError: there is nothing to score, or inference does not work.
    """
    verify_manifest(model_folder, rebuild=_REBUILD_MODEL)
    verify_manifest(tokenizer_folder, rebuild=_REBUILD_TOKENIZER)
    require_same_tokenizer(model_folder, tokenizer_folder)
    model, description = read_model(model_folder)
    task_type = description["task_type"]
    heldout = read_heldout(tokenizer_folder, split)
    task = TASKS[task_type].task(model_folder, description["model"], description)
    found = task.evaluate(model, heldout)
    reference = BASELINES[task_type](read_encoded(tokenizer_folder, "train"), heldout)
    details: dict[str, Any] = {}
    if isinstance(task, PictureTask):
        made, details = task.samples_of(model, heldout), task.details(model, heldout)
    else:
        made = task.samples(
            model, prompts, max_new_tokens=max_new_tokens, temperature=temperature, seed=generation_seed
        )
    samples = [{"prompt": sample.prompt, "text": sample.shown, "new_tokens": sample.new_tokens} for sample in made]
    probed = measure(model_folder, prompts[0])
    latencies = probed["latencies_ms"]
    inference = {
        "rss_mb": round(probed["rss_bytes"] / _MB, 1),
        "peak_mb": round(probed["peak_bytes"] / _MB, 1),
        "latency_p50_ms": round(quantile(latencies, 0.5), 3),
        "latency_p95_ms": round(quantile(latencies, 0.95), 3),
        "tokens_per_second": round(1000 * len(latencies) / sum(latencies), 1),
        "measured_tokens": len(latencies),
        "threads": probed["threads"],
    }
    weights = model_folder / BEST
    values = {
        "val_loss": found.loss,
        "rss_mb": inference["rss_mb"],
        "peak_mb": inference["peak_mb"],
        "latency_p95_ms": inference["latency_p95_ms"],
        "model_mb": weights.stat().st_size / _MB,
        "training_minutes": description["training"]["seconds"] / 60,
    }
    verdicts = judge(values, budgets, target=TASKS[task_type].target)
    report = {
        "format_version": REPORT_FORMAT,
        "task_type": task_type,
        "status": overall(verdicts),
        "split": split,
        "metrics": _rounded(reported(found)),
        "baselines": _rounded(reference),
        "scored": {"documents": heldout.documents, "tokens": found.targets, "bytes": heldout.bytes},
        **details,
        "inference": inference,
        "budgets": as_dicts(verdicts),
        "samples": samples,
        "model": {"parameters": sum(p.numel() for p in model.parameters()), "weights_sha256": sha256_file(weights)},
    }
    return Validation(report, verdicts, latencies)


def _rounded(figures: Mapping[str, float | None]) -> dict[str, float | None]:
    """Figures without the digits that change with the number of threads, which would show as changes in git."""
    return {name: None if value is None else round(value, 6) for name, value in figures.items()}


def require_same_tokenizer(model_folder: Path, tokenizer_folder: Path) -> None:
    """Refuse a model that was trained with another tokenizer than the one that encoded the splits.

    Raises:
        ArtifactError: they differ; a loss would be computed, and mean nothing.
    """
    name = beside_model(read_metadata(tokenizer_folder))[0]
    if sha256_file(model_folder / name) != sha256_file(tokenizer_folder / name):
        raise ArtifactError(
            f"the model was trained with another tokenizer than {tokenizer_folder / name}",
            where=str(model_folder / name),
            hint=f"train again with: {_REBUILD_MODEL}",
        )


def read_heldout(folder: Path, split: str) -> EncodedSplit:
    """The split that a model is judged on.

    Raises:
        ValidationError: it is empty, so there is nothing to score.
    """
    heldout = read_encoded(folder, split)
    if heldout.documents == 0:
        raise ValidationError(
            f"the {split} split is empty, there is nothing to judge the model on",
            where=str(folder / METADATA),
            hint=f"give dataset.{split}_split a larger share, or choose another split with validation.split",
        )
    return heldout
