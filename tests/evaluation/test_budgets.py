"""Budgets: what passes, what is close, what fails, and what the user is told."""

from __future__ import annotations

import json
import math

import pytest

from pipeline import paths
from pipeline.errors import ExitCode
from pipeline.evaluation.budgets import BUDGETS, as_dicts, judge, missed_budgets, overall

pytestmark = pytest.mark.unit

FINE = dict.fromkeys(BUDGETS, 1.0)
LIMITS = dict.fromkeys(BUDGETS, 100.0)


def _status(value, limit=100.0):
    return judge({**FINE, "rss_mb": value}, {**LIMITS, "rss_mb": limit})[1].status


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (0.0, "pass"),
        (90.0, "pass"),
        (90.1, "warn"),
        (100.0, "warn"),
        (math.nextafter(100.0, math.inf), "fail"),
        (math.inf, "fail"),
        (math.nan, "fail"),
    ],
)
def test_a_value_passes_to_90_percent_warns_to_the_limit_and_fails_beyond(value, status):
    assert _status(value) == status


@pytest.mark.parametrize("value", [1.0, 1e12, math.nan])
def test_a_budget_without_a_limit_is_listed_and_not_judged(value):
    assert _status(value, limit=None) == "not_judged"


def test_a_loss_is_of_what_the_task_predicts():
    units = {target: judge(FINE, LIMITS, target=target)[0].unit for target in ("token", "picture")}

    assert units == {"token": "nats per token", "picture": "nats per picture"}


def test_every_budget_of_the_schema_is_judged_in_its_order():
    schema = json.loads((paths.SCHEMAS / "v1" / "section" / "validation.json").read_text())

    assert list(BUDGETS) == list(schema["properties"]["budgets"]["properties"])
    assert [verdict.name for verdict in judge(FINE, LIMITS)] == list(BUDGETS)


def test_the_overall_status_is_the_worst():
    assert overall(judge(FINE, LIMITS)) == "pass"
    assert overall(judge(FINE, dict.fromkeys(BUDGETS))) == "pass"
    assert overall(judge({**FINE, "rss_mb": 95}, LIMITS)) == "warn"
    assert overall(judge({**FINE, "rss_mb": 95, "model_mb": 101}, LIMITS)) == "fail"


def test_a_value_that_is_not_a_number_is_null_in_the_report():
    assert as_dicts(judge({**FINE, "val_loss": math.nan}, LIMITS))[0] == {
        "name": "val_loss",
        "value": None,
        "limit": 100.0,
        "unit": "nats per token",
        "status": "fail",
    }


def test_every_missed_budget_is_named_with_value_limit_and_what_to_change():
    verdicts = judge({**FINE, "model_mb": 123.4, "val_loss": math.nan, "rss_mb": 95.0}, LIMITS)

    error = missed_budgets(verdicts, report="reports/validation.json")

    named = "val_loss not a finite number (limit 100); model_mb 123.4 MB (limit 100)"
    assert error.message == f"2 budgets are missed: {named}"
    assert "training.learning_rate" in error.hint
    assert "validation.on_budget_failure" in error.hint
    assert (error.where, error.exit_code) == ("reports/validation.json", ExitCode.VALIDATION)


def test_warnings_are_not_missed():
    assert missed_budgets(judge(dict.fromkeys(BUDGETS, 100.0), LIMITS), report="") is None
