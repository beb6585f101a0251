"""Runs are filtered and sorted by columns, settings and metrics."""

from __future__ import annotations

import pytest

from pipeline.directions import direction
from pipeline.errors import FoundryError
from pipeline.records.experiments import ExperimentDB
from pipeline.records.queries import condition, find_runs, require_known

pytestmark = pytest.mark.unit


@pytest.fixture
def database(tmp_path):
    """Runs a, b and c; c has no loss."""
    with ExperimentDB(tmp_path / "experiments.db") as opened:
        for name, rate, losses, patience in (
            ("a", 0.1, [3.0, 1.0], None),
            ("b", 0.2, [2.0, 2.5], 3),
            ("c", 0.3, [], 5),
        ):
            config = {
                "training": {"learning_rate": rate, "early_stopping_patience": patience},
                "export": {"formats": [name]},
            }
            opened.log_run(name, config, run_id=name)
            for step, loss in enumerate(losses):
                opened.log_metrics(
                    name, {"val/loss": loss, "validation/accuracy": 1 / loss, "step_size": loss}, step=step
                )
        opened.update_run_status("b", "completed")
        yield opened


def found(database: ExperimentDB, *where: str, **how) -> list[str]:
    conditions = [condition(text) for text in where]
    return [run["run_id"] for run in find_runs(database, mode_of=direction, where=conditions, **how)]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["status=completed"], ["b"]),
        (["status != completed"], ["c", "a"]),
        (["training.learning_rate<=0.2"], ["b", "a"]),
        (["training.learning_rate=2e-1"], ["b"]),
        (["training.early_stopping_patience=null"], ["a"]),
        (['export.formats=["a"]'], ["a"]),
        (["val/loss<2"], ["a"]),  # its best value
        (["validation/accuracy>=1"], ["a"]),
        (["step_size>2"], ["b"]),  # its last value
        (["val/loss<5", "training.learning_rate>0.1"], ["b"]),
        (["run_name=a' OR 1=1 --"], []),
        (["a.b')--=1"], None),
    ],
)
def test_conditions_choose_runs(database, where, expected):
    if expected is None:
        with pytest.raises(FoundryError, match="is no condition"):
            found(database, *where)
    else:
        assert found(database, *where) == expected


@pytest.mark.parametrize(
    ("sort", "descending", "expected"),
    [
        ("created_at", True, ["c", "b", "a"]),
        ("val/loss", False, ["a", "b", "c"]),
        ("val/loss", True, ["b", "a", "c"]),
        ("training.learning_rate", True, ["c", "b", "a"]),
        ("run_name", False, ["a", "b", "c"]),
    ],
)
def test_runs_are_sorted_and_those_without_a_value_come_last(database, sort, descending, expected):
    assert found(database, sort=sort, descending=descending) == expected
    assert found(database, sort=sort, descending=descending, limit=2) == expected[:2]


@pytest.mark.parametrize(
    ("name", "message"), [("loss", "no run has a metric loss"), ("training.rate", "no run has a setting training.rate")]
)
def test_a_name_that_no_run_has_is_refused(database, name, message):
    require_known(database, ["status", "val/loss", "training.learning_rate"])

    with pytest.raises(FoundryError, match=message):
        require_known(database, [name])
