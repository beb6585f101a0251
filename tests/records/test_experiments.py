"""Runs are kept with their settings, metrics and artefacts, and found again."""

from __future__ import annotations

import math
import shutil
import sqlite3
from pathlib import Path

import pytest

from pipeline.errors import FoundryError
from pipeline.files import sha256_file
from pipeline.records import experiments
from pipeline.records.experiments import ExperimentDB, UnknownRunError

pytestmark = pytest.mark.unit

OLD = Path(__file__).parent / "old"
MIGRATIONS = sorted(path.stem for path in experiments._MIGRATIONS.glob("*.sql"))
CONTRACT = {  # table → columns that others rely on
    "runs": "run_id run_name config notes created_at status sweep_id sweep_params gist_id gist_revision gist_sha256"
    " artifact_paths task_name modality strategy devices updated_at",
    "metrics": "metric_id run_id split metric_name value step epoch timestamp",
    "artifacts": "artifact_id run_id artifact_type filepath metadata created_at",
    "comparisons": "comparison_id baseline_run_id candidate_run_id created_at notes",
}


RELEASED = {  # migration → SHA-256: databases have been through them, so they are not edited, only followed by others
    "0001_runs": "6ec7c82f44adbd576150913daa4c46a95b4f43f65989a560364bf40767e32b4f",
    "0002_executions": "e9a89e18b6f1385af76d618b6b26f313b6c9d92eb55bd036ea3df361939a9065",
    "0003_origins": "f31fbb480c2922099f2b6532d89d1c050209beda877d0f262c22d2f24d557337",
    "0004_pruned": "1da93f41c4f7318b2c4e6633c2d9ed21ef93c54ceae4676d70978a77977a9c4a",
}


@pytest.fixture
def database(tmp_path):
    with ExperimentDB(tmp_path / "experiments.db") as opened:
        yield opened


def tables(path: Path) -> dict[str, set[str]]:
    """Table → its columns."""
    connection = sqlite3.connect(path)
    names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'index')")]
    found = {name: {row[1] for row in connection.execute(f"PRAGMA table_info({name})")} for name in names}
    connection.close()
    return found


@pytest.mark.parametrize("table", CONTRACT)
def test_a_table_has_the_columns_that_others_rely_on(database, table):
    assert tables(database.path)[table] >= set(CONTRACT[table].split())


def test_a_run_is_found_again_with_everything_that_was_said_of_it(database):
    said = {
        "task_name": "lm_tiny",
        "modality": "text",
        "strategy": "auto",
        "devices": "auto",
        "sweep_id": "sweep",
        "sweep_params": {"training.learning_rate": 0.1},
        "gist_id": "0123",
        "gist_revision": "1",
        "gist_sha256": "ab",
        "artifact_paths": {"model": "artifacts/model"},
    }

    run_id = database.log_run("name", {"training": {"epochs": 3}}, "notes", **said)

    run = database.get_run(run_id)
    assert run.items() >= said.items()
    assert (run["run_name"], run["config"], run["notes"]) == ("name", {"training": {"epochs": 3}}, "notes")
    assert run["status"] == "running"


def test_a_run_cannot_be_logged_twice(database):
    database.log_run("name", {}, run_id="one")

    with pytest.raises(FoundryError, match="there is a run one already"):
        database.log_run("name", {}, run_id="one")


def test_metrics_come_back_in_order_and_by_name_and_split(database):
    run_id = database.log_run("name", {})
    database.log_metric(run_id, "train/loss", 3.0, split="train", step=1, epoch=1)
    database.log_metrics(run_id, {"train/loss": 2.0, "val/loss": 2.5}, "validation", step=2, epoch=1)

    every = database.get_metrics(run_id)

    assert [(row["metric_name"], row["value"], row["step"]) for row in every] == [
        ("train/loss", 3.0, 1),
        ("train/loss", 2.0, 2),
        ("val/loss", 2.5, 2),
    ]
    assert [row["value"] for row in database.get_metrics(run_id, "train/loss", "train")] == [3.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_is_kept_as_nothing(database, value):
    run_id = database.log_run("name", {})

    database.log_metric(run_id, "val/loss", value)

    assert [row["value"] for row in database.get_metrics(run_id)] == [None]
    with pytest.raises(UnknownRunError, match="no completed run has the metric"):
        database.get_best_run()


@pytest.mark.parametrize(
    "ask",
    [
        lambda database: database.get_run("nobody"),
        lambda database: database.get_metrics("nobody"),
        lambda database: database.get_artifacts("nobody"),
        lambda database: database.log_metric("nobody", "loss", 1.0),
        lambda database: database.log_artifact("nobody", "model", "path"),
        lambda database: database.update_run_status("nobody", "failed"),
        lambda database: database.compare_runs(["nobody"]),
        lambda database: database.create_comparison("nobody", "no one"),
        lambda database: database.resolve("nobody"),
    ],
)
def test_a_run_that_is_not_there_is_refused_and_leaves_nothing(database, ask):
    with pytest.raises(ValueError, match="there is no run nobody") as caught:
        ask(database)

    assert isinstance(caught.value, FoundryError)
    assert all(database.rows(f"SELECT * FROM {table}") == [] for table in CONTRACT)  # noqa: S608 - names of ours


def test_a_status_that_there_is_not_is_refused(database):
    run_id = database.log_run("name", {})

    with pytest.raises(FoundryError, match="never `done`"):
        database.update_run_status(run_id, "done")

    assert database.get_run(run_id)["status"] == "running"


def test_artifacts_come_back_by_type(database):
    run_id = database.log_run("name", {})
    database.log_artifact(run_id, "model", Path("artifacts/model"), {"sha256": "ab"})
    database.log_artifact(run_id, "plot", "loss.png")

    (found,) = database.get_artifacts(run_id, "model")

    assert (found["filepath"], found["metadata"]) == ("artifacts/model", {"sha256": "ab"})
    assert len(database.get_artifacts(run_id)) == 2


def test_the_newest_runs_are_listed_first_and_ten_of_them(database):
    ids = [database.log_run(str(number), {}) for number in range(12)]

    assert [run["run_id"] for run in database.list_runs()] == ids[:1:-1]


def test_the_best_run_is_the_completed_one_with_the_best_value_in_either_direction(database):
    for name, values, status in (
        ("a", [3.0, 1.5, 2.0], "completed"),
        ("b", [1.0, 9.0], "completed"),
        ("c", [0.1], "failed"),
    ):
        database.log_run(name, {}, run_id=name)
        for step, value in enumerate(values):
            database.log_metric(name, "val/loss", value, step=step)
        database.update_run_status(name, status)

    assert (database.get_best_run()["run_id"], database.get_best_run()["best_value"]) == ("b", 1.0)
    assert database.get_best_run("val/loss", "max")["best_value"] == 9.0


def test_runs_are_compared_by_how_they_did_on_held_out_data(database):
    database.log_run("name", {}, run_id="one")
    for epoch, loss in ((1, 3.0), (2, 2.0), (3, 2.5)):
        database.log_metric("one", "val/loss", loss, split="validation", step=epoch * 10, epoch=epoch)
    database.log_run("name", {}, run_id="nothing")

    compared = database.compare_runs(["one", "nothing"])

    assert compared["one"] == {"final_val_loss": 2.5, "best_val_loss": 2.0, "best_epoch": 2, "total_epochs": 3}
    assert set(compared["nothing"].values()) == {None}


def test_the_trials_of_a_sweep_come_in_their_order(database):
    for name in ("first", "second"):
        database.log_run(name, {}, sweep_id="sweep")
    database.log_run("other", {}, sweep_id="another")

    assert [run["run_name"] for run in database.get_runs_for_sweep("sweep")] == ["first", "second"]


def test_a_run_is_known_by_the_beginning_of_its_identity(database):
    for run_id in ("abc1", "abc2", "abc"):
        database.log_run("name", {}, run_id=run_id)

    assert database.resolve("abc1") == "abc1"
    assert database.resolve("abc") == "abc"
    assert database.resolve("latest") == "abc"
    with pytest.raises(UnknownRunError, match="3 runs begin with ab"):
        database.resolve("ab")


def test_a_record_is_taken_in_as_it_was_given_and_again_without_losing_comparisons(database, tmp_path):
    with ExperimentDB(shutil.copy(OLD / "experiments-0002.db", tmp_path / "old.db")) as old:
        records = [old.get_record(run_id) for run_id in ("a" * 32, "b" * 32)]
    for record in records:
        database.register_run(record)
    database.create_comparison("a" * 32, "b" * 32)

    for record in records:
        database.register_run(record)

    assert [database.get_record(record["run_id"]) for record in records] == records
    assert len(database.get_comparisons("b" * 32)) == 1


# Old files


def test_a_migration_that_databases_have_been_through_is_not_edited():
    assert {path.stem: sha256_file(path) for path in experiments._MIGRATIONS.glob("*.sql")} == RELEASED


def test_a_database_file_of_every_version_is_kept():
    assert [path.stem for path in sorted(OLD.glob("experiments-*.db"))] == [
        f"experiments-{name[:4]}" for name in MIGRATIONS
    ]


@pytest.mark.parametrize("number", [int(name[:4]) for name in MIGRATIONS])
def test_an_old_database_gets_the_tables_of_a_new_one_and_keeps_its_rows(database, tmp_path, number):
    path = Path(shutil.copy(OLD / f"experiments-{number:04}.db", tmp_path / "old.db"))
    connection = sqlite3.connect(path)
    assert [name for (name,) in connection.execute("SELECT name FROM migrations")] == MIGRATIONS[:number]
    connection.close()

    with ExperimentDB(path) as old:
        first, second = (old.get_record(letter * 32) for letter in "ab")
        comparisons = old.get_comparisons("a" * 32)

    assert tables(path) == tables(database.path)
    assert (first["run_name"], first["status"], first["notes"]) == ("first", "completed", "a note")
    assert first["sweep_params"] == {"training.learning_rate": 0.01}
    assert [row["value"] for row in first["metrics"] if row["metric_name"] == "val/loss"] == [5.5, 4.5, 5.0]
    assert first["artifacts"][0]["metadata"] == {"sha256": "0" * 64}
    assert (second["run_name"], second["status"]) == ("second", "running")
    assert comparisons[0]["notes"] == "why not"
    assert first["seconds"] == (2.5 if number >= 2 else None)
