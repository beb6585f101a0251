"""The certificate of an export: every check with what it found, and what follows from them, as JSON and as Markdown."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import ExportError
from pipeline.export.formats import FORMATS
from pipeline.export.source import REBUILD
from pipeline.files import write_artefact, write_atomic

REPORT_FORMAT = 1
_STATUS_WORD = {"passed": "✅ passed", "warning": "⚠️ warning", "failed": "❌ failed"}


@dataclass(frozen=True)
class CheckResult:
    """One check and what it found.

    Attributes:
        check_name: of the check.
        status: how it ended.
        message: what was found.
        details: its figures.
        duration_seconds: how long it took.
        advice: what to do about it when it did not pass; it goes into the report's recommendations.
    """

    check_name: str
    status: Literal["passed", "warning", "failed"]
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)
    duration_seconds: float = 0.0
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The check as it stands in a report."""
        return {
            "check_name": self.check_name,
            "status": self.status,
            "message": self.message,
            "details": dict(self.details),
            "duration_seconds": self.duration_seconds,
        }


class ExportHealthReport:
    """Check results and what follows from them. Every figure is counted when it is asked for.

    Args:
        model_name: `model.model_name` of the spec.
        spec_hash: of the lock of the spec that made the model; None where no spec is at work.
    """

    def __init__(self, model_name: str, *, spec_hash: str | None = None) -> None:
        self.model_name, self.spec_hash = model_name, spec_hash
        self.timestamp = datetime.now(UTC).isoformat(timespec="seconds")
        self.checks: list[CheckResult] = []

    def add_check(self, result: CheckResult) -> None:
        """Add what a check found."""
        self.checks.append(result)

    def get_failed_checks(self) -> list[CheckResult]:
        """The checks that failed, in the order they were run."""
        return [check for check in self.checks if check.status == "failed"]

    @property
    def summary(self) -> dict[str, int]:
        """How many checks ended how."""
        count = Counter(check.status for check in self.checks)
        return {
            "total": len(self.checks),
            "passed": count["passed"],
            "warnings": count["warning"],
            "failed": count["failed"],
        }

    @property
    def health_score(self) -> float:
        """100 · (passed + warnings / 2) / total; 0 without checks, which show nothing."""
        found = self.summary
        return round(100 * (found["passed"] + 0.5 * found["warnings"]) / max(1, found["total"]), 1)

    @property
    def all_passed(self) -> bool:
        """At least one check was run, and none failed."""
        return bool(self.checks) and not self.get_failed_checks()

    @property
    def recommendations(self) -> list[str]:
        """What to do about the checks that did not pass, each once."""
        return list(dict.fromkeys(check.advice for check in self.checks if check.status != "passed" and check.advice))

    def to_dict(self) -> dict[str, Any]:
        """The report as its schema describes it (`health_report`)."""
        import torch  # noqa: PLC0415 - takes a second, and who reads a report has no use for it

        return {
            "format_version": REPORT_FORMAT,
            **({} if self.spec_hash is None else {"spec_hash": self.spec_hash}),
            "timestamp": self.timestamp,
            "model_name": self.model_name,
            "summary": self.summary,
            "health_score": self.health_score,
            "all_passed": self.all_passed,
            "environment": {
                "platform": f"{platform.system()} {platform.machine()}",
                "processors": os.cpu_count(),
                "threads": torch.get_num_threads(),
                "torch": version("torch"),
                "onnxruntime": version("onnxruntime"),
            },
            "formats": _formats(self.checks),
            "checks": [check.to_dict() for check in self.checks],
            "recommendations": self.recommendations,
        }

    def save_json(self, path: Path) -> None:
        """Write the report, checked by its schema."""
        write_artefact(path, "health_report", self.to_dict())

    def save_markdown(self, path: Path) -> None:
        """Write the report as a page for people."""
        write_atomic(path, markdown(self.to_dict()))

    def raise_for_failures(self, *, where: Path) -> None:
        """Stop if the export is not healthy.

        Raises:
            ExportError: a check failed, or none was run; names each with what it found.
        """
        if self.all_passed:
            return
        found = "; ".join(f"{check.check_name}: {check.message}" for check in self.get_failed_checks())
        hint = "; ".join(self.recommendations) or f"build it again with: {REBUILD}"
        raise ExportError(f"the export is not sound: {found or 'no check was run'}", where=str(where), hint=hint)


def _formats(checks: Iterable[CheckResult]) -> dict[str, dict[str, Any]]:
    """The figures of each checked format that people compare; None where a check did not get that far."""
    details = {check.check_name: check.details for check in checks}
    return {
        name: {
            "size_mb": details[f"{name}_validation"].get("size_mb"),
            "max_abs_diff": details.get(f"{name}_numerical_consistency", {}).get("max_abs_diff"),
            "greedy_tokens": details.get(f"{name}_generation_consistency", {}).get("tokens"),
            "greedy_tokens_equal": details.get(f"{name}_generation_consistency", {}).get("equal"),
            "perplexity_change": details.get(f"{name}_perplexity", {}).get("change"),
            **_latency(details.get(f"{name}_performance", {})),
        }
        for name in FORMATS
        if f"{name}_validation" in details
    }


def _latency(details: Mapping[str, Any]) -> dict[str, Any]:
    longest = details["lengths"][-1] if details else {}
    return {key: longest.get(key) for key in ("length", "p50_ms", "p95_ms", "pytorch_p50_ms", "speedup")}


# As a page for people


def markdown(health: Mapping[str, Any]) -> str:
    """The page: the verdict, a row for each format, a row for each check. `health` is what `to_dict` returns."""
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


_FORMAT_COLUMNS = {
    "MB": "size_mb",
    "Largest difference of a logit": "max_abs_diff",
    "Greedy tokens": "greedy_tokens",
    "Equal": "greedy_tokens_equal",
    "Change of perplexity": "perplexity_change",
    "Latency of": "length",
    "p50 ms": "p50_ms",
    "p95 ms": "p95_ms",
    "PyTorch p50 ms": "pytorch_p50_ms",
    "Times as fast": "speedup",
}


def _format_table(formats: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A row of figures for each format, or nothing where there are none."""
    if not formats:
        return []
    shown = {name: {**figures, "length": _timed(figures)} for name, figures in formats.items()}
    rows = ((name, *(_cell(figures.get(key)) for key in _FORMAT_COLUMNS.values())) for name, figures in shown.items())
    return ["## Formats", "", *_table(("Format", *_FORMAT_COLUMNS), rows), ""]


def _timed(figures: Mapping[str, float | None]) -> str | None:
    """What the latencies of a format are of; None where nothing was timed."""
    if figures["p50_ms"] is None:
        return None
    return "one picture" if figures["length"] is None else f"{figures['length']} tokens"


def _cell(value: float | str | None) -> str:
    return "not measured" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """A Markdown table. A bar inside a cell would end it, so it is escaped."""
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines]
