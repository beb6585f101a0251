"""A run is recorded however it ends, and never fails for its record."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import CorpusError, ExitCode, Preempted, TrainingError
from pipeline.records.experiments import ExperimentDB
from pipeline.records.rebuild import rebuild
from pipeline.records.recording import recorded
from pipeline.records.run_files import mark_killed, read_record
from pipeline.training.run_folder import locked

pytestmark = pytest.mark.integration

FAILED = [
    {"stage": "corpus", "outcome": "failed", "seconds": 1.0, "exit_code": 2},
    {"stage": "tokenizer", "outcome": "not reached", "seconds": None, "exit_code": None},
]


NOT_MEASURED = {
    **dict.fromkeys(("learning_rate", "gradient_norm", "tokens_per_second", "rss_mb"), 0.5),
    **dict.fromkeys(("val_loss", "cuda_allocated_mb", "cuda_reserved_mb", "cuda_peak_mb")),
}


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


def test_a_trial_is_recorded_with_its_sweep_and_with_what_its_own_folder_holds(project, checkout):
    trial = Path("trial")
    (trial / "specs").mkdir(parents=True)
    shutil.copy(checkout / "specs" / "experiment.yaml", trial / "specs")
    shutil.copytree(checkout / "reports", trial / "reports")
    chosen = {"training.learning_rate": 0.01}

    with recorded("one", lambda _: [], origin="foundry sweep", project=trial, sweep_id="rates", sweep_params=chosen):
        pass

    run = record()
    assert (run["origin"], run["sweep_id"], run["sweep_params"]) == ("foundry sweep", "rates", chosen)
    assert "best_val_loss" in {row["metric_name"] for row in run["metrics"]}
    assert not (trial / ".work").exists()


def test_a_block_that_does_not_raise_can_say_how_it_ended(project):
    with recorded("one", lambda _: []) as ending:
        ending.code, ending.message = ExitCode.VALIDATION, "a check failed"

    assert (record()["status"], record()["exit_code"], record()["message"]) == ("failed", 5, "a check failed")


# A training that did not end


def train(run: str, steps: int, error: BaseException | None = None) -> None:
    """What a trainer leaves of some steps when it is stopped within the line of the next, and perhaps by an error."""
    folder = Path(".work/runs/0123456789abcdef")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOUNDRY_RECORD", run)
        with locked(folder):
            lines = [
                {"kind": "step", "step": step, "epoch": 1, "loss": 5.0 - step, **NOT_MEASURED}
                for step in range(1, steps + 1)
            ]
            lines.append({"kind": "sample", "step": steps, "epoch": 1, "prompt": "a", "text": "b"})
            (folder / "record.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"kind": "st')
    if error is not None:
        raise error


def losses() -> list[tuple[int, float]]:
    return [(row["step"], row["value"]) for row in record()["metrics"] if row["metric_name"] == "train/loss"]


@pytest.mark.parametrize("error", [TrainingError("no number"), KeyboardInterrupt()])
def test_a_training_that_did_not_end_keeps_the_steps_it_got_to(project, error):
    with pytest.raises(type(error)), recorded("one", lambda _: FAILED):
        train("one", 3, error)

    assert losses() == [(1, 4.0), (2, 3.0), (3, 2.0)]


def test_the_steps_of_another_run_are_not_taken_in(project):
    with pytest.raises(TrainingError), recorded("one", lambda _: FAILED):
        train("another", 3, TrainingError("no number"))

    assert losses() == []


def run_and_wait(said: Any) -> None:
    with recorded("one", lambda _: FAILED):
        train("one", 2)
        said.set()
        signal.pause()


def test_a_killed_training_keeps_the_steps_it_got_to_in_the_database_and_in_its_file(project):
    spawned = multiprocessing.get_context("spawn")
    said = spawned.Event()
    runner = spawned.Process(target=run_and_wait, args=(said,))
    runner.start()
    assert said.wait(60)
    runner.kill()
    runner.join()

    with ExperimentDB() as database:
        assert mark_killed(database) == ["one"]

    assert (record()["status"], losses()) == ("killed", [(1, 4.0), (2, 3.0)])
    assert read_record(Path(".work/records/one.json")) == record()


def test_what_a_killed_training_left_damaged_is_a_warning_and_the_run_is_marked(project, capsys):
    with recorded("one", lambda _: []):
        train("one", 2)
    Path(".work/runs/0123456789abcdef/record.jsonl").write_text("{}\n")
    with ExperimentDB() as database:
        database.update_run_status("one", "running")

        assert mark_killed(database) == ["one"]

    assert "how far the killed run one came is not known: .work/runs/" in capsys.readouterr().err
    assert record()["status"] == "killed"
