"""The database is an index: it is made again from the files of runs, from reports and from git."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.records.experiments import ExperimentDB
from pipeline.records.rebuild import rebuild
from pipeline.records.run_files import folder_of, goes_on, held, mark_killed, read_record, write_record

pytestmark = pytest.mark.integration

ONE, TWO, THREE = (f"{number:08}-0000-4000-8000-000000000000" for number in (1, 2, 3))
OLD = Path(__file__).parent / "old" / "experiments-0002.db"


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def project(checkout, tmp_path, monkeypatch) -> Path:
    """An empty repository with the committed reports of this one, not yet added."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(checkout / "reports", tmp_path / "reports")
    git("init", "--quiet")
    return tmp_path


def commit(message: str, **values: Any) -> str:
    """Change keys of the report of training, and commit."""
    path = Path("reports/training_metrics.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    git("add", ".")
    git("commit", "--quiet", "-m", message)
    return git("rev-parse", "HEAD")


def known(database: ExperimentDB) -> dict[str, str | None]:
    """Run → the commit."""
    return {row["run_id"]: row["git_commit"] for row in database.rows("SELECT run_id, git_commit FROM executions")}


def test_every_training_that_git_knows_is_one_run_of_the_newest_commit_that_holds_it(project):
    commit("one", run_id=ONE)
    again = commit("one, again", run_id=ONE, toolkit_version="0.1.1")
    git("checkout", "--quiet", "-b", "aside")
    aside = commit("on a branch", run_id=TWO)
    git("checkout", "--quiet", "-")
    Path("reports/training_metrics.json").write_text(
        Path("reports/training_metrics.json").read_text().replace(ONE, THREE)
    )

    with ExperimentDB(project / "experiments.db") as database:
        first, second = rebuild(database), rebuild(database)

        assert known(database) == {ONE: again, TWO: aside, THREE: None}
        record = database.get_record(ONE)
    assert (first.from_reports, second.from_reports, second.unreadable) == (3, 0, [])
    assert (record["status"], record["run_name"]) == ("completed", "shakespeare-tiny")
    metrics = {row["metric_name"]: row for row in record["metrics"]}
    training = json.loads(Path("reports/training_metrics.json").read_text())
    assert metrics["best_val_loss"]["value"] == training["final_metrics"]["best_val_loss"]
    assert metrics["val/epoch_loss"]["epoch"] == 2
    assert metrics["train/loss"]["step"] == training["final_metrics"]["total_steps"]
    assert {"validation/loss", "baseline/trigram", "health_score", "export/onnx/size_mb"} <= metrics.keys()


def test_a_report_that_cannot_be_read_is_named_and_the_others_are_taken(project):
    commit("broken", format_version=99)
    commit("sound", run_id=TWO, format_version=1)

    with ExperimentDB(project / "experiments.db") as database:
        done = rebuild(database)

        assert list(known(database)) == [TWO]
    (reason,) = done.unreadable
    assert "`format_version` 99 is newer" in reason


def test_a_folder_without_git_gives_the_run_of_its_reports(project):
    shutil.rmtree(".git")

    with ExperimentDB(project / "experiments.db") as database:
        assert rebuild(database).from_reports == 1


def test_a_run_comes_back_from_its_file_as_it_was(project, tmp_path):
    shutil.rmtree("reports")
    with ExperimentDB(shutil.copy(OLD, tmp_path / "old.db")) as old:
        record = old.get_record("a" * 32)
    path = project / ".work" / "experiments.db"
    write_record(folder_of(path), record)
    (folder_of(path) / "broken.json").write_text("{")

    with ExperimentDB(path) as database:
        done = rebuild(database)

        assert database.get_record("a" * 32) == record
        assert (done.from_files, len(done.unreadable)) == (1, 1)
        assert (rebuild(database).from_files, rebuild(database).known) == (0, 1)
    assert read_record(folder_of(path) / f"{'a' * 32}.json") == record


def test_a_training_that_foundry_run_recorded_is_not_taken_from_reports_again(project, tmp_path):
    with ExperimentDB(shutil.copy(OLD, tmp_path / "old.db")) as old:
        record = old.get_record("a" * 32)
    commit("one", run_id=ONE)

    with ExperimentDB(project / "experiments.db") as database:
        database.register_run({**record, "training_run_id": ONE})
        done = rebuild(database)

        assert (done.from_reports, done.known) == (0, 2)  # in the commit and in the folder
        assert list(known(database)) == ["a" * 32]


def hold(folder: Path, said: Any) -> None:
    with held(folder, "a" * 32):
        said.set()
        signal.pause()


def test_a_run_whose_process_is_gone_is_marked_and_one_that_goes_on_is_not(tmp_path):
    with ExperimentDB(shutil.copy(OLD, tmp_path / "old.db")) as database:
        database.update_run_status("a" * 32, "running")  # by foundry run; b was logged by a script
        spawned = multiprocessing.get_context("spawn")
        said = spawned.Event()
        runner = spawned.Process(target=hold, args=(folder_of(database.path), said))
        runner.start()
        assert said.wait(60)

        assert mark_killed(database) == []
        runner.kill()
        runner.join()
        assert mark_killed(database) == ["a" * 32]

        statuses = [database.get_run(letter * 32)["status"] for letter in "ab"]
        assert statuses == ["killed", "running"]
        assert "gone" in database.get_record("a" * 32)["message"]


def test_a_run_that_has_ended_leaves_no_lock(tmp_path):
    with held(tmp_path, "a"):
        assert goes_on(tmp_path, "a")

    assert not goes_on(tmp_path, "a")
    assert list(tmp_path.iterdir()) == []
