"""What changed, and whether for the better."""

from __future__ import annotations

import pytest

from pipeline.commands.compare import Row, headlines, metrics, params, table
from pipeline.records.directions import judgement

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("name", "old", "new", "word"),
    [
        ("final_metrics.best_val_loss", 2.0, 1.0, "better"),
        ("final_metrics.best_val_loss", 1.0, 2.0, "worse"),
        ("bits_per_byte", 2.0, 1.9, "better"),
        ("final_metrics.tokens_per_second", 10.0, 20.0, "better"),
        ("inference.latency_p95_ms", 10.0, 20.0, "worse"),
        ("splits.train.documents", 10.0, 20.0, ""),
    ],
)
def test_the_direction_of_a_change_is_judged_by_what_is_measured(name, old, new, word):
    assert judgement(name, old, new).rsplit(")", 1)[-1].strip() == word


def test_a_change_from_nothing_has_no_percentage():
    assert judgement("failed", 0, 2) == "+2  worse"


def test_identifiers_and_times_are_not_results():
    difference = {
        "reports/training_metrics.json": {
            "run_id": {"old": "a", "new": "b"},
            "passed": {"old": True, "new": False},
            "final_metrics.val": {"old": 1.5, "new": 1.25},
        }
    }

    rows = list(metrics(difference))

    assert [row.name for row in rows] == ["training_metrics: final_metrics.val"]


def test_a_value_that_only_one_side_has_is_shown_as_missing_on_the_other():
    (row,) = metrics({"reports/validation.json": {"loss": {"new": 1.5}}})

    assert (row.old, row.new, row.change) == ("-", "1.5", "")


def test_the_table_is_aligned():
    rows = list(
        params({"specs/experiment.yaml": {"a": {"old": 1, "new": 20000}, "long.name": {"old": 0.001, "new": 2}}})
    )

    lines = table("spec", "HEAD", rows).splitlines()

    assert lines[0].split() == ["spec", "HEAD", "now"]
    assert len({len(line) for line in lines}) == 1


def test_what_people_look_for_comes_first_in_the_order_of_the_pipeline():
    names = ["health_report: health_score", "corpus: split.split_seed", "validation: metrics.val_loss"]
    rows = [Row(name, "1", "2", "") for name in names]

    assert [row.name for row in headlines(rows)] == ["validation: metrics.val_loss", "health_report: health_score"]


def test_settings_and_format_versions_are_not_results():
    difference = {
        "reports/training_metrics.json": {
            "format_version": {"old": 1, "new": 2},
            "configuration.training.epochs": {"old": 1, "new": 2},
            "final_metrics.total_epochs": {"old": 1, "new": 2},
        }
    }

    assert [row.name for row in metrics(difference)] == ["training_metrics: final_metrics.total_epochs"]
