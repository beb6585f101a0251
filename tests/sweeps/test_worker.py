"""What a worker makes of a trial's end."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from documents import document

from pipeline.commands.sweep_worker import Worker, objective_of, open_sweep

pytestmark = pytest.mark.integration


def rows(name: str, *values: float | None) -> list[dict]:
    return [{"metric_name": name, "value": value} for value in values]


@pytest.mark.parametrize(
    ("objective", "figure"), [("val/loss", 1.0), ("validation/accuracy", 3.0), ("best_step", 2.0), ("train/loss", None)]
)
def test_of_several_figures_the_best_counts_or_the_last_where_none_is_better(objective, figure):
    measured = [row for name in ("val/loss", "validation/accuracy", "best_step") for row in rows(name, 3.0, 1.0, 2.0)]

    assert objective_of([*measured, *rows("val/loss", None)], objective) == figure


def test_a_database_that_is_damaged_costs_no_pruned_trial(checkout, tmp_path, monkeypatch, capsys):
    (tmp_path / "specs").mkdir()
    shutil.copy(checkout / "specs" / "experiment.yaml", tmp_path / "specs")
    monkeypatch.chdir(tmp_path)
    sweep, place = open_sweep(document(storage="journal://sweeps.log"))
    Path(".work/experiments.db").write_text("no database" * 1000)

    with sweep.take() as held:
        Worker(sweep, place, [])._prune(held, "after 2 evaluations")

    assert sweep.trials()[0].state == "pruned"
    assert "is not recorded as pruned: .work/experiments.db" in capsys.readouterr().err
