"""A sweep can go by the figures that the records of runs have, and by no others."""

from __future__ import annotations

import pytest

from pipeline.records.reports import metrics_of
from pipeline.spec.objectives import meant_by, stage_of

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("objective", "stage"),
    [
        ("best_val_loss", "train"),
        ("val/loss", "train"),
        ("validation/accuracy", "validate"),
        ("validation/loss", "validate"),
        ("baseline/unigram_bits_per_byte", "validate"),
        ("inference/latency_p95_ms", "validate"),
        ("export/onnx/size_mb", "export"),
        ("health_score", "export"),
        ("tokenizer/splits.validation.characters_per_token", "tokenizer"),
        ("accuracy", None),
        ("validation/val_loss", None),
        ("export/", None),
        ("", None),
    ],
)
def test_each_figure_belongs_to_the_stage_that_measures_it(objective, stage):
    assert stage_of(objective) == stage


def test_a_slip_is_understood():
    assert meant_by("best_val_los") == "best_val_loss"
    assert meant_by("validation/acuracy") == "validation/accuracy"


def test_every_figure_of_the_committed_run_can_decide(checkout):
    from pipeline.records.reports import parse_reports, reports_in

    rows = metrics_of(parse_reports(reports_in(checkout / "reports"), "reports/"))
    names = {row["metric_name"] for row in rows if row["step"] is None}

    assert {name for name in names if stage_of(name) is None} == set()
    assert len(names) > 30
