"""A run is recorded however it ends, and never fails for its record."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import CorpusError, Preempted
from pipeline.records.experiments import ExperimentDB
from pipeline.records.rebuild import rebuild
from pipeline.records.recording import recorded

pytestmark = pytest.mark.integration

FAILED = [
    {"stage": "corpus", "outcome": "failed", "seconds": 1.0, "exit_code": 2},
    {"stage": "tokenizer", "outcome": "not reached", "seconds": None, "exit_code": None},
]


@pytest.fixture
def project(checkout, tmp_path, monkeypatch) -> Path:
    """A folder with a spec, which is no repository."""
    (tmp_path / "specs").mkdir()
    shutil.copy(checkout / "specs" / "experiment.yaml", tmp_path / "specs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record() -> dict[str, Any]:
    with ExperimentDB() as database:
        return database.get_record("one")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (CorpusError("no text"), "failed", 2),
        (Preempted("stopped by SIGTERM"), "interrupted", 75),
        (KeyboardInterrupt(), "interrupted", 130),
        (RuntimeError("a defect"), "failed", 1),
    ],
)
def test_what_ends_a_run_is_recorded_and_goes_on(project, error, status, code):
    with pytest.raises(type(error)), recorded("one", lambda _: FAILED):
        raise error

    run = record()
    assert (run["status"], run["exit_code"]) == (status, code)
    assert str(error) in run["message"]
    assert run["stages"] == FAILED


def test_while_a_run_goes_on_it_is_recorded_as_running(project):
    with recorded("one", lambda _: []):
        during = record()

    assert (during["status"], during["finished_at"], during["git_commit"]) == ("running", None, None)
    assert record()["status"] == "completed"


def test_a_damaged_report_is_a_warning_and_does_not_hide_how_the_run_ended(project, capsys):
    with recorded("one", lambda _: []):
        Path("reports").mkdir()
        Path("reports/health_report.json").write_text("{")

    assert "reports/health_report.json: not valid JSON" in capsys.readouterr().err
    assert (record()["status"], record()["metrics"]) == ("completed", [])


def test_a_work_folder_that_is_removed_during_a_run_is_made_again(project):
    with recorded("one", lambda _: []):
        shutil.rmtree(".work")

    assert record()["status"] == "completed"


def test_a_folder_that_cannot_hold_records_is_a_warning(project, capsys):
    Path(".work").write_text("in the way")

    with recorded("one", lambda _: []):
        pass

    assert "not recorded as it should be" in capsys.readouterr().err


def test_a_record_that_only_the_database_lacks_is_taken_in_whole(project):
    Path(".work/experiments.db").mkdir(parents=True)
    with recorded("one", lambda _: FAILED):
        pass
    Path(".work/experiments.db").rmdir()

    with ExperimentDB() as database:
        assert rebuild(database).from_files == 1

    assert (record()["status"], record()["stages"]) == ("completed", FAILED)
