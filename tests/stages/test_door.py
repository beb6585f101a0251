"""What every stage does around its work."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import ranks
from pipeline.errors import ArtifactError, CorpusError, ExitCode, FoundryError
from pipeline.paths import STAGES, status_file
from pipeline.records.experiments import ExperimentDB
from pipeline.stages import WAITING, door

pytestmark = pytest.mark.integration


@pytest.fixture
def spec(checkout, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(door, "die_with_parent", lambda: None)  # it is for good, and this process is pytest
    return checkout / "specs" / "experiment.yaml"


def ended(name: str, spec: Path, error: BaseException) -> tuple[int, dict]:
    with pytest.raises(SystemExit) as caught, door.stage(name, spec):
        raise error
    return caught.value.code, json.loads(status_file(name).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}),
        ({"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": None}),
    ],
)
def test_threads_wait_for_a_moment_and_then_sleep_unless_the_environment_says_otherwise(given, expected):
    environment = {name: value for name, value in os.environ.items() if name not in WAITING} | given
    script = "import json, os, sys; import pipeline.stages\n"
    script += "print(json.dumps({name: os.environ.get(name) for name in sys.argv[1:]}))"
    command = [sys.executable, "-c", script, *WAITING]

    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    assert json.loads(done.stdout) == expected


def test_a_stage_that_ends_well_says_so(spec):
    with door.stage("corpus", spec) as read:
        running = json.loads(status_file("corpus").read_text(encoding="utf-8"))

    done = json.loads(status_file("corpus").read_text(encoding="utf-8"))
    assert read.name == "shakespeare-tiny"
    assert (running["phase"], running["code"], running["pid"]) == ("running", None, os.getpid())
    assert (done["phase"], done["code"]) == ("done", 0)


@pytest.mark.parametrize(("stage", "code"), list(zip(STAGES, range(2, 7), strict=True)))
def test_a_stage_fails_with_its_own_code_even_for_a_damaged_input(spec, stage, code):
    ending, status = ended(stage, spec, ArtifactError("the file is missing", where="x", hint="build it"))

    assert ending == status["code"] == code
    assert (status["message"], status["hint"]) == ("x: the file is missing", "build it")


def test_a_wrong_spec_ends_with_1_before_any_work(spec, tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("schema_version: 1\n")

    with pytest.raises(SystemExit) as caught, door.stage("corpus", wrong):
        pytest.fail("no work is done on a wrong spec")

    assert caught.value.code == ExitCode.PREREQUISITES


def test_ctrl_c_ends_with_130(spec):
    code, status = ended("train", spec, KeyboardInterrupt())

    assert (code, status["message"]) == (130, "stopped by Ctrl-C")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device", "f"), RuntimeError("write: No space left on device")]
)
def test_a_full_disk_is_called_that_whoever_reports_it(spec, error, capsys):
    code, status = ended("train", spec, error)

    assert code == 4
    assert "the disk is full" in status["message"]
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 25600000000 bytes."),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_exhausted_memory_is_called_that_whoever_reports_it(spec, error, capsys):
    code, status = ended("train", spec, error)

    assert (code, status["message"]) == (4, "there is not enough memory")
    assert "training.batch_size" in status["hint"]
    assert "Traceback" not in capsys.readouterr().err


def test_a_defect_is_shown_whole(spec, capsys):
    code, status = ended("export", spec, ZeroDivisionError("division by zero"))

    assert code == 6
    assert "internal error: ZeroDivisionError" in status["message"]
    assert "Traceback" in capsys.readouterr().err


def test_the_message_is_printed_when_no_one_else_will(spec, capsys):
    ended("corpus", spec, CorpusError("no text", hint="add some"))

    assert capsys.readouterr().err == "error: no text\n  hint: add some\n"


def test_foundry_run_prints_the_message_itself(spec, capsys, monkeypatch):
    monkeypatch.setenv("FOUNDRY_RUN", "abc")

    _, status = ended("corpus", spec, CorpusError("no text", hint="add some"))

    assert status["run"] == "abc"
    assert capsys.readouterr().err == ""


def test_a_status_that_cannot_be_written_does_not_hide_the_message(spec, capsys, monkeypatch):
    monkeypatch.setenv("FOUNDRY_RUN", "abc")
    Path(".work").touch()

    with pytest.raises(SystemExit) as caught, door.stage("corpus", spec):
        pytest.fail("no work is done when it cannot be followed")

    assert caught.value.code == ExitCode.CORPUS
    assert "error: " in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="the guard is Linux's")
def test_a_stage_dies_with_its_parent(checkout, tmp_path):
    mark = tmp_path / "pid"
    child = (
        "import time, os; from pipeline.stages import door; door.die_with_parent(); "
        f"open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    )
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=checkout, start_new_session=True)
    pid = int(_wait_for(mark))

    process.kill()
    process.wait()

    assert _gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="the guard is Linux's")
def test_a_stage_whose_parent_died_before_it_could_ask_ends_by_itself(checkout, tmp_path):
    out = tmp_path / "out"
    child = (
        "import sys, time; time.sleep(0.5); from pipeline.stages import door; door.die_with_parent(); "
        "print('alive', file=sys.stderr)"
    )
    # The parent ends at once; init, or whoever adopts, is in another process group than the one DVC started.
    parent = (
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}], stderr=open({str(out)!r}, 'w'))"
    )
    environment = {**os.environ, "DVC_STAGE": "train"}
    subprocess.run([sys.executable, "-c", parent], cwd=checkout, env=environment, start_new_session=True, check=True)

    text = _wait_for(out, "\n")

    assert text == "error: the process that started this stage has ended\n"


def test_a_stage_names_the_wrong_python(checkout):
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.stages.corpus"],
        cwd=checkout,
        env={**os.environ, "FOUNDRY_PREFIX": "/somewhere/else"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == ExitCode.PREREQUISITES
    assert "this stage was started by" in done.stderr
    assert "not to /somewhere/else" in done.stderr
    assert "hint: " in done.stderr


def test_errors_keep_their_own_code_outside_a_stage():
    assert FoundryError("x").exit_code == ExitCode.PREREQUISITES


def _wait_for(path: Path, text: str = "") -> str:
    for _ in range(200):
        if path.is_file() and (found := path.read_text()) and text in found:
            return found
        time.sleep(0.05)
    pytest.fail(f"{path} never came")


def _gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True  # dead, and waiting for its adopter to notice
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("name", STAGES)
def test_a_wrong_command_line_ends_with_1_and_not_with_the_code_of_the_corpus(name):
    done = subprocess.run(
        [sys.executable, "-m", f"pipeline.stages.{name}", "--bad"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "--bad" in done.stderr


# Records


def records() -> list[dict]:
    with ExperimentDB() as database:
        return [database.get_record(run["run_id"]) for run in database.list_runs()]


@pytest.mark.parametrize(
    ("error", "status", "code", "outcome"),
    [
        (None, "completed", 0, "built"),
        (ArtifactError("it is damaged"), "failed", 4, "failed"),
        (KeyboardInterrupt(), "interrupted", 130, "failed"),
        (ZeroDivisionError("a defect"), "failed", 4, "failed"),
    ],
)
def test_a_stage_that_is_started_by_itself_is_recorded_with_its_own_code(spec, error, status, code, outcome):
    if error is None:
        with door.stage("train", spec):
            pass
    else:
        ended("train", spec, error)

    (run,) = records()
    assert (run["origin"], run["status"], run["exit_code"]) == ("stage", status, code)
    assert [(row["stage"], row["outcome"], row["exit_code"]) for row in run["stages"]] == [("train", outcome, code)]
    assert run["config"]["name"] == "shakespeare-tiny"


@pytest.mark.parametrize(
    "variables",
    [
        {"FOUNDRY_RUN": "a run"},
        {**dict.fromkeys(ranks._FROM_TORCHRUN, "1"), "RANK": "1"},
        {**dict.fromkeys(ranks._FROM_TORCHRUN, "1"), "RANK": "0", **ranks.marked_as_ours()},
    ],
)
def test_a_stage_that_belongs_to_another_record_has_none_of_its_own(spec, monkeypatch, variables):
    monkeypatch.setattr(door.console, "mute", lambda: None)  # it is for good, and this process is pytest
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with door.stage("train", spec):
        pass

    assert not Path(".work/experiments.db").exists()


def test_the_run_folder_says_whose_training_it_holds_and_no_one_else_is_told(spec, monkeypatch):
    with door.stage("train", spec):
        own = os.environ["FOUNDRY_RECORD"]
    monkeypatch.setenv("FOUNDRY_RUN", "a run")
    with door.stage("train", spec):
        above = os.environ["FOUNDRY_RECORD"]

    assert (own, above) == (records()[0]["run_id"], "a run")
    assert "FOUNDRY_RECORD" not in os.environ


def test_a_wrong_spec_leaves_no_record(spec, tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("schema_version: 1\n")

    with pytest.raises(SystemExit), door.stage("corpus", wrong):
        pass

    assert not Path(".work/records").exists()
