"""Upper limits that a model must keep, and the verdict on each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipeline.errors import ValidationError

Status = Literal["pass", "warn", "fail", "not_judged"]

_NEARLY = 0.9  # a value above this share of its limit passes with a warning: the next change may break it


@dataclass(frozen=True)
class Budget:
    """What a budget measures, where `{target}` is what the task predicts, and what to change when it is missed."""

    unit: str
    advice: str


BUDGETS: dict[str, Budget] = {
    "val_loss": Budget("nats per {target}", "train longer, or with more text, or change training.learning_rate"),
    "rss_mb": Budget("MB", "make the model smaller (model.d_model, model.num_layers, tokenizer.vocab_size)"),
    "peak_mb": Budget("MB", "make the model smaller or its sequences shorter (model.d_model, model.max_seq_len)"),
    "latency_p95_ms": Budget("ms", "make the model smaller (model.num_layers, model.d_model) or free the machine"),
    "model_mb": Budget("MB", "make the model smaller (model.d_model, model.num_layers, tokenizer.vocab_size)"),
    "training_minutes": Budget("min", "train less (training.epochs, training.max_steps) or a smaller model"),
}


@dataclass(frozen=True)
class Verdict:
    """One budget, judged. `value` is None when it was measured and is not a finite number."""

    name: str
    value: float | None
    limit: float | None
    unit: str
    status: Status

    def __str__(self) -> str:
        value = "not a finite number" if self.value is None else f"{self.value:,.4g} {self.unit}"
        return f"{self.name} {value}" if self.limit is None else f"{self.name} {value} (limit {self.limit:,.4g})"


def judge(values: Mapping[str, float], limits: Mapping[str, float | None], *, target: str = "token") -> list[Verdict]:
    """Hold each measured value against its limit, in the order of `BUDGETS`.

    Above the limit, or not finite: fail. Above 90 % of it: warn. No limit: not judged, and listed as such.

    Args:
        values: one for every name in `BUDGETS`, in its unit.
        limits: one or None for every name in `BUDGETS`.
        target: what the task predicts: a token, a text, a picture.
    """
    return [
        Verdict(
            name,
            values[name] if math.isfinite(values[name]) else None,
            limits[name],
            budget.unit.format(target=target),
            status,
        )
        for name, budget in BUDGETS.items()
        for status in [_status(values[name], limits[name])]
    ]


def _status(value: float, limit: float | None) -> Status:
    if limit is None:
        return "not_judged"
    if not value <= limit:  # written so that NaN fails
        return "fail"
    return "warn" if value > _NEARLY * limit else "pass"


def overall(verdicts: list[Verdict]) -> Literal["pass", "warn", "fail"]:
    """The worst status of all."""
    statuses = {verdict.status for verdict in verdicts}
    return "fail" if "fail" in statuses else "warn" if "warn" in statuses else "pass"


def as_dicts(verdicts: list[Verdict]) -> list[dict[str, Any]]:
    """The verdicts as a report holds them."""
    return [asdict(verdict) for verdict in verdicts]


def missed_budgets(verdicts: list[Verdict], *, report: str) -> ValidationError | None:
    """The error that names each missed budget with its value, its limit and what to change; None if all are kept.

    Args:
        verdicts: of `judge`.
        report: where the whole report is.
    """
    failed = [verdict for verdict in verdicts if verdict.status == "fail"]
    if not failed:
        return None
    count = "a budget is missed" if len(failed) == 1 else f"{len(failed)} budgets are missed"
    advice = "; ".join(f"{verdict.name}: {BUDGETS[verdict.name].advice}" for verdict in failed)
    return ValidationError(
        f"{count}: " + "; ".join(str(verdict) for verdict in failed),
        hint=f"{advice}; or raise the limit under validation.budgets, or set validation.on_budget_failure to warn",
        where=report,
    )
