"""The health of an export: every check run, one report, as JSON and as Markdown."""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import ArtifactError, ExportError
from pipeline.export.checks import Check, Outcome, Subject, checks_for
from pipeline.export.formats import FORMATS
from pipeline.export.source import REBUILD
from pipeline.files import MANIFEST, read_artefact
from pipeline.models.store import load_model
from pipeline.models.transformer import Transformer

REPORT_FORMAT = 1
_STATUS_WORD = {"passed": "✅ passed", "warning": "⚠️ warning", "failed": "❌ failed"}


def check_export(folder: Path, model_folder: Path) -> dict[str, Any]:
    """Run every check on an export, against the model it was made from, and report.

    What the export should hold, and how exact it should be, is what its manifest says it was made with.

    Args:
        folder: of the export stage, with its manifest.
        model_folder: of the train stage.

    Returns:
        The report: see `report`. A failed check is in it and is not an error.

    Raises:
        ArtifactError: the model folder is damaged, or the export has no readable manifest.
        ExportError: the folder is something else than an export.
    """
    manifest = read_artefact(folder / MANIFEST, "manifest", rebuild=REBUILD)
    if manifest.get("stage") != "export":
        raise ExportError("the folder is not an export", where=str(folder), hint=f"make one with: {REBUILD}")
    settings = manifest["sections"]["export"]
    model, description = load_model(model_folder)
    with Subject(
        model=model,
        description=description,
        model_folder=model_folder,
        folder=folder,
        formats=settings["formats"],
        max_abs_diff=settings["max_abs_diff"],
        generated_tokens=settings["generated_tokens"],
    ) as subject:
        results = [
            run_check(check, subject)
            for check in checks_for(settings["formats"], writes_text=isinstance(model, Transformer))
        ]
    return report(results, model_name=description["model_name"])


def run_check(check: Check, subject: Subject) -> dict[str, Any]:
    """Run one check; what it raises for the user to mend is a failed check, not the end of the report."""
    started = time.monotonic()
    try:
        outcome = check.run(subject)
    except (ArtifactError, ExportError) as error:  # not every FoundryError: a request to stop must stop
        outcome = Outcome("failed", str(error), advice=error.hint or f"build it again with: {REBUILD}")
    return {
        "check_name": check.name,
        "status": outcome.status,
        "message": outcome.message,
        "details": outcome.details,
        "duration_seconds": round(time.monotonic() - started, 3),
        "advice": outcome.advice,
    }


def report(results: Sequence[dict[str, Any]], *, model_name: str) -> dict[str, Any]:
    """Sum up check results. The summary, the score and the verdict always follow from `results`, and from nothing else.

    No checks at all is not a pass: nothing was shown.
    """
    count = Counter(result["status"] for result in results)
    score = 100 * (count["passed"] + 0.5 * count["warning"]) / len(results) if results else 0.0
    advice = dict.fromkeys(result["advice"] for result in results if result["status"] != "passed" and result["advice"])
    return {
        "format_version": REPORT_FORMAT,
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "model_name": model_name,
        "summary": {
            "total": len(results),
            "passed": count["passed"],
            "warnings": count["warning"],
            "failed": count["failed"],
        },
        "health_score": round(score, 1),
        "all_passed": bool(results) and count["failed"] == 0,
        "environment": {
            "platform": f"{platform.system()} {platform.machine()}",
            "processors": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": version("torch"),
            "onnxruntime": version("onnxruntime"),
        },
        "formats": _formats(results),
        "checks": [{key: value for key, value in result.items() if key != "advice"} for result in results],
        "recommendations": list(advice),
    }


def raise_for_failures(health: dict[str, Any], *, where: Path) -> None:
    """Stop if the export is not healthy.

    Raises:
        ExportError: a check failed, or none was run; names each with what it found.
    """
    if health["all_passed"]:
        return
    failed = [check for check in health["checks"] if check["status"] == "failed"]
    found = "; ".join(f"{check['check_name']}: {check['message']}" for check in failed) or "no check was run"
    hint = "; ".join(health["recommendations"]) or f"build it again with: {REBUILD}"
    raise ExportError(f"the export is not sound: {found}", where=str(where), hint=hint)


def markdown(health: dict[str, Any]) -> str:
    """The report as a page for people: the verdict, a row for each format, a row for each check."""
    summary, environment = health["summary"], health["environment"]
    verdict = "sound" if health["all_passed"] else "not sound"
    lines = [
        f"# Export of {health['model_name']}: {verdict}",
        "",
        (
            f"{summary['passed']} of {summary['total']} checks passed, {summary['warnings']} warnings, "
            f"{summary['failed']} failed; health score {health['health_score']:g} of 100."
        ),
        "",
        (
            f"Measured {health['timestamp']} on {environment['platform']} with {environment['threads']} threads, "
            f"torch {environment['torch']}, ONNX Runtime {environment['onnxruntime']}."
        ),
        "",
        *_format_table(health["formats"]),
        "## Checks",
        "",
        *_table(
            ("Check", "Status", "Found", "Seconds"),
            (
                (
                    check["check_name"],
                    _STATUS_WORD[check["status"]],
                    check["message"],
                    f"{check['duration_seconds']:.2f}",
                )
                for check in health["checks"]
            ),
        ),
    ]
    if health["recommendations"]:
        lines += ["", "## What to do", "", *(f"* {advice}" for advice in health["recommendations"])]
    return "\n".join(lines) + "\n"


def _formats(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The figures of each checked format that people compare; None where a check did not get that far."""
    details = {result["check_name"]: result["details"] for result in results}
    return {
        name: {
            "size_mb": details[f"{name}_validation"].get("size_mb"),
            "max_abs_diff": details[f"{name}_numerical_consistency"].get("max_abs_diff"),
            "greedy_tokens": details.get(f"{name}_generation_consistency", {}).get("tokens"),
            "greedy_tokens_equal": details.get(f"{name}_generation_consistency", {}).get("equal"),
            **_latency(details[f"{name}_performance"]),
        }
        for name in FORMATS
        if f"{name}_validation" in details
    }


def _latency(details: dict[str, Any]) -> dict[str, Any]:
    longest = details["lengths"][-1] if details else {}
    return {key: longest.get(key) for key in ("length", "p50_ms", "p95_ms", "pytorch_p50_ms", "speedup")}


_FORMAT_COLUMNS = {
    "MB": "size_mb",
    "Largest difference of a logit": "max_abs_diff",
    "Greedy tokens": "greedy_tokens",
    "Equal": "greedy_tokens_equal",
    "Latency at length": "length",
    "p50 ms": "p50_ms",
    "p95 ms": "p95_ms",
    "PyTorch p50 ms": "pytorch_p50_ms",
    "Times as fast": "speedup",
}


def _format_table(formats: dict[str, dict[str, Any]]) -> list[str]:
    """A row of figures for each format, or nothing where there are none."""
    if not formats:
        return []
    rows = ((name, *(_cell(figures[key]) for key in _FORMAT_COLUMNS.values())) for name, figures in formats.items())
    return ["## Formats", "", *_table(("Format", *_FORMAT_COLUMNS), rows), ""]


def _cell(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """A Markdown table. A bar inside a cell would end it, so it is escaped."""
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines]
