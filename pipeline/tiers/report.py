"""The report of the tiers: every check with what it measured, its limit, why it matters and what to do."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

import torch

from pipeline import __version__
from pipeline.tiers.checks import TIERS, Check
from pipeline.tiers.subject import Outcome

REPORT_FORMAT = 1
Verdict = Literal["passed", "warning", "failed"]
_WORD = {"passed": "✅ passed", "warning": "⚠️ warning", "failed": "❌ failed", "not_judged": "not judged"}


@dataclass(frozen=True)
class Result:
    """A check, what it found, and how long it took."""

    check: Check
    outcome: Outcome
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The check as it stands in a report."""
        found = self.outcome
        return {
            "check": self.check.name,
            "tier": self.check.tier,
            "group": self.check.group,
            "status": found.status,
            "measured": found.measured,
            "limit": found.limit,
            "why": self.check.why,
            "advice": self.check.advice,
            "details": found.details,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class TiersReport:
    """What the tiers found about a model.

    Attributes:
        model_name: `model.model_name` of the spec.
        task_type: what the model was trained for.
        weights_sha256: of the weights that were examined.
        tiers: which were asked for.
        results: one for each check, in the order of the table.
    """

    model_name: str
    task_type: str
    weights_sha256: str
    tiers: tuple[int, ...]
    results: Sequence[Result]

    @property
    def status(self) -> Verdict:
        """The worst of all; a warning where nothing was judged."""
        found = {result.outcome.status for result in self.results}
        if "failed" in found:
            return "failed"
        return "warning" if "warning" in found or "passed" not in found else "passed"

    def failed(self) -> list[str]:
        """The names of the checks that failed."""
        return [result.check.name for result in self.results if result.outcome.status == "failed"]

    def to_dict(self) -> dict[str, Any]:
        """The report as its schema describes it (`tiers_report`)."""
        count = Counter(result.outcome.status for result in self.results)
        exported = next((result.outcome.details for result in self.results if result.check.name == "exports"), {})
        return {
            "format_version": REPORT_FORMAT,
            "toolkit_version": __version__,
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "model_name": self.model_name,
            "task_type": self.task_type,
            "weights_sha256": self.weights_sha256,
            "tiers": list(self.tiers),
            "status": self.status,
            "summary": {
                "total": len(self.results),
                "passed": count["passed"],
                "warnings": count["warning"],
                "failed": count["failed"],
                "not_judged": count["not_judged"],
            },
            "environment": {
                "platform": f"{platform.system()} {platform.machine()}",
                "threads": torch.get_num_threads(),
                "torch": version("torch"),
            },
            "checks": [result.to_dict() for result in self.results],
            **{name: exported[name] for name in ("export", "tier4") if name in exported},
        }


def table(report: Mapping[str, Any]) -> str:
    """The report for a terminal: a line for each check, what to do, and the verdict."""
    lines = []
    for check in report["checks"]:
        status = check["status"].replace("_", " ")
        limit = f" (passes: {check['limit']})" if check["limit"] and check["status"] != "not_judged" else ""
        lines.append(f"tier {check['tier']}  {status:10}  {check['check']}: {check['measured']}{limit}")
        if check["status"] in ("warning", "failed"):
            lines += [f"    why it matters: {check['why']}", f"    what to do: {check['advice']}"]
    return "\n".join([*lines, "", f"{report['model_name']}: {_verdict(report)}"]) + "\n"


def markdown(report: Mapping[str, Any], pictures: Iterable[tuple[str, str]]) -> str:
    """The report as a page.

    Args:
        report: what `to_dict` returns.
        pictures: title and file name of each, beside the page.
    """
    environment = report["environment"]
    lines = [
        f"# Tiers of {report['model_name']}: {report['status']}",
        "",
        f"{_verdict(report)}.",
        "",
        (
            f"Measured {report['timestamp']} on {environment['platform']} with {environment['threads']} threads, "
            f"torch {environment['torch']}."
        ),
    ]
    for tier in sorted({check["tier"] for check in report["checks"]}):
        rows = [check for check in report["checks"] if check["tier"] == tier]
        lines += [
            "",
            f"## Tier {tier}: {TIERS[tier]}",
            "",
            "| Check | Status | Measured | Passes |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {row['check']} | {_WORD[row['status']]} | {_cell(row['measured'])} | {_cell(row['limit'])} |"
            for row in rows
        ]
    wanting = [check for check in report["checks"] if check["status"] in ("warning", "failed")]
    if wanting:
        lines += ["", "## What to do", ""]
        lines += [f"* {check['check']}: {check['advice']} ({check['why']})" for check in wanting]
    for title, name in pictures:
        lines += ["", f"## {title}", "", f"![{title}]({name})"]
    return "\n".join(lines) + "\n"


def _verdict(report: Mapping[str, Any]) -> str:
    count = report["summary"]
    return (
        f"{count['passed']} of {count['total']} checks passed, {count['warnings']} warnings, {count['failed']} failed, "
        f"{count['not_judged']} not judged"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
