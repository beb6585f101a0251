"""Tier 4: every exported format answers as the model does."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from pipeline.errors import ExportError
from pipeline.export.compare import difference, random_inputs
from pipeline.export.formats import FORMATS
from pipeline.export.opening import Process
from pipeline.export.source import REBUILD
from pipeline.files import MANIFEST, manifest_hash, read_artefact
from pipeline.models.cnn import Cnn
from pipeline.models.model import Model
from pipeline.models.store import load_model
from pipeline.tiers.subject import Outcome, Subject
from pipeline.tiers.subject import Status as CheckStatus

Status = Literal["ok", "warn", "fail"]
_WORST_FIRST: tuple[Status, ...] = ("fail", "warn", "ok")
_AS_CHECK: Mapping[Status, CheckStatus] = {"ok": "passed", "warn": "warning", "fail": "failed"}
_TOKENS = 64  # of the sequences that are compared


def run_tier4_export_validation(
    model_dir: Path,
    export_dir: Path,
    *,
    formats: Sequence[str] | None = None,
    num_samples: int = 10,
    max_abs_diff: float = 1e-4,
    max_abs_diff_quantized: float = 1e-2,
    relative_epsilon: float = 1e-8,
    warmup_runs: int = 5,
    timed_runs: int = 50,
) -> dict[str, Any]:
    """Compare every format of an export with the model, each in a fresh process.

    A format whose weights are not rounded fails above its limit. Rounded weights move logits by design: above theirs
    they are a warning, and what they write decides (`foundry health`).

    Args:
        model_dir: the model folder that the export was made from.
        export_dir: the export.
        formats: which to compare; None: all that its manifest says were written.
        num_samples: random inputs, compared as one batch.
        max_abs_diff: largest difference of a logit where weights are not rounded.
        max_abs_diff_quantized: the same where they are.
        relative_epsilon: added to the denominator of the relative error.
        warmup_runs: passes of one input before the clock starts.
        timed_runs: passes that are timed.

    Returns:
        `export`: format → the path of what it wrote. `tier4`: `status`, the worst of all, or `warn` where nothing was
        compared; and `formats`: name → `status` (ok, warn or fail), `max_abs_diff`, `max_rel_error`, `latency_ms` (the
        median; these three are None where it did not get that far), `path` and `message`.

    Raises:
        ArtifactError: the model or the manifest of the export is missing or damaged.
        ExportError: the export was made from another model.
    """
    model, _ = load_model(model_dir)
    manifest = read_artefact(export_dir / MANIFEST, "manifest", rebuild=REBUILD)
    if manifest["inputs"].get("model") != manifest_hash(model_dir):
        message = f"the export was made from another model than {model_dir}"
        raise ExportError(message, where=str(export_dir), hint=f"build it again with: {REBUILD}")
    chosen = manifest["sections"]["export"]["formats"] if formats is None else formats
    paths = {name: export_dir / FORMATS[name].file for name in chosen}
    found = {
        name: _compared(
            model,
            name,
            path,
            samples=num_samples,
            limit=max_abs_diff_quantized if FORMATS[name].rounded else max_abs_diff,
            epsilon=relative_epsilon,
            timed=(warmup_runs, timed_runs),
        )
        for name, path in paths.items()
    }
    statuses = {one["status"] for one in found.values()} or {"warn"}
    status = next(status for status in _WORST_FIRST if status in statuses)
    return {
        "export": {name: path.as_posix() for name, path in paths.items()},
        "tier4": {"status": status, "formats": found},
    }


def _compared(
    model: Model, name: str, path: Path, *, samples: int, limit: float, epsilon: float, timed: tuple[int, int]
) -> dict[str, Any]:
    """The row of one format; what keeps it from running is a failure of it alone."""
    length = 1 if isinstance(model, Cnn) else min(_TOKENS, model.max_seq_len)
    row: dict[str, Any] = {"max_abs_diff": None, "max_rel_error": None, "latency_ms": None, "path": path.as_posix()}
    if not path.exists():
        return {"status": "fail", **row, "message": f"{path.name} is missing"}
    inputs = random_inputs(model, samples, length, one_document=FORMATS[name].one_document)
    try:
        with Process(name, threads=torch.get_num_threads()).open(path) as runner:
            apart = difference(model, runner, inputs, relative_epsilon=epsilon)
            seconds = runner.seconds(random_inputs(model, 1, length), warm_ups=timed[0], runs=timed[1])
    except ExportError as error:
        return {"status": "fail", **row, "message": error.message}
    row |= {
        "max_abs_diff": _json(apart.max_abs),
        "max_rel_error": _json(apart.max_rel),
        "latency_ms": round(1000 * statistics.median(seconds), 4),
    }
    return {"status": _status(name, apart.max_abs, limit), **row, "message": f"{apart} (limit {limit:g})"}


def _status(name: str, apart: float, limit: float) -> Status:
    if apart <= limit:
        return "ok"
    return "warn" if FORMATS[name].rounded and math.isfinite(apart) else "fail"


def exports(subject: Subject) -> Outcome:
    """Each format of the export beside the model. See `run_tier4_export_validation`."""
    assert subject.exports is not None
    settings = subject.settings["export"]
    details = run_tier4_export_validation(
        subject.folder,
        subject.exports,
        num_samples=settings["samples"],
        **{name: value for name, value in settings.items() if name != "samples"},
    )
    rows = details["tier4"]["formats"]
    measured = "; ".join(f"{name} {row['status']}: {row['message']}" for name, row in rows.items())
    limit = f"{settings['max_abs_diff']:g}; of rounded weights {settings['max_abs_diff_quantized']:g}, a warning above"
    return Outcome(_AS_CHECK[details["tier4"]["status"]], measured or "there are no formats", limit, details)


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None
