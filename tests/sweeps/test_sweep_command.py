"""`foundry sweep` in tiny projects, with real stages in real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from projects import LONGER, SWEEP, at_work, kill_one, make_project, run, start, started, trials, write_sweep

from pipeline.records.experiments import ExperimentDB

pytestmark = pytest.mark.e2e

# Its width must be a multiple of twice its two heads: what lies between the ends is wrong, as a rule.
SOME_ARE_WRONG = """\
method: random
seed: {seed}
budget: {{max_trials: 4}}
space:
  training.learning_rate: {{kind: log_range, low: 1.0e-3, high: 1.0e-2}}
  model.d_model: {{kind: range, low: 32, high: 36}}
"""
GRID = """\
method: grid
parallel_jobs: 2
space:
  training.learning_rate: [1.0e-3, 3.0e-3, 1.0e-2]
"""


@pytest.fixture
def project(checkout, tmp_path):
    yield make_project(checkout, tmp_path / "project")
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()
    started.clear()


def database(project):
    return ExperimentDB(project.folder / ".work" / "experiments.db")


def test_a_sweep_refuses_what_is_wrong_runs_the_rest_and_finds_the_best(project):
    write_sweep(project, SOME_ARE_WRONG.format(seed=3))
    code, out, err = run(project, "sweep", "run", SWEEP)
    assert code == 0, err

    found = trials(project)
    refused = [trial for trial in found if trial["state"] == "refused"]
    completed = [trial for trial in found if trial["state"] == "completed"]
    assert len(found) == 4 == len(refused) + len(completed)
    assert refused
    assert completed
    assert all(trial["values"]["model.d_model"] % 4 for trial in refused)
    assert all("E0" in trial["message"] for trial in refused)

    with database(project) as records:
        runs = {each["run_id"]: each for each in records.list_runs()}
        losses = {run_id: records.get_metrics(run_id, "best_val_loss")[0]["value"] for run_id in runs}
        stages = [records.get_record(run_id)["stages"] for run_id in runs]
        origins = {records.get_record(run_id)["origin"] for run_id in runs}
    assert runs.keys() == {trial["run_id"] for trial in completed}
    for trial in completed:
        assert runs[trial["run_id"]]["sweep_params"] == trial["values"]
        assert runs[trial["run_id"]]["config"]["model"]["d_model"] == trial["values"]["model.d_model"]
        assert losses[trial["run_id"]] == pytest.approx(trial["objective"])
    assert origins == {"foundry sweep"}
    made = [[(row["stage"], row["outcome"]) for row in each] for each in stages]
    assert made == [[("corpus", "unchanged"), ("tokenizer", "unchanged"), ("train", "built")]] * len(completed)

    code, out, err = run(project, "sweep", "best", SWEEP, "--apply")
    assert (code, err) == (0, "")
    best = min(completed, key=lambda trial: trial["objective"])
    assert f"best: trial {best['number']}" in out
    text = project.spec.read_text()
    assert f"learning_rate: {best['values']['training.learning_rate']}" in text
    assert "# 64 features a head" in text, "comments stay"

    code, out, err = run(project, "sweep", "report", SWEEP)
    assert code == 0, err
    page = (project.folder / "reports" / "sweeps" / "tried.html").read_text()
    assert "Parallel coordinates" in page
    assert page.count("<svg") == 1
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert not [path.name for path in (project.folder / ".work" / "sweeps" / "tried").glob("trial-*/")]


@pytest.mark.slow
def test_ctrl_c_stops_every_trial_with_a_checkpoint_and_resume_goes_on(project):
    project.set({**LONGER, "training.max_steps": 2000})
    write_sweep(project, GRID.replace(", 1.0e-2", ""))
    process = start(project, "sweep", "run", SWEEP)
    deadline = time.monotonic() + 120
    while len(at_work(process)) < 2:
        assert time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert err.count("error: ") == 1
    assert "`foundry sweep resume` goes on with it" in err
    assert {trial["state"] for trial in trials(project)} == {"waiting"}

    code, _, err = run(project, "sweep", "resume", SWEEP)

    assert code == 0, err
    assert [(trial["state"], trial["kills"]) for trial in trials(project)] == [("completed", 0)] * 2
    logs = sorted((project.folder / ".work" / "sweeps" / "tried").glob("trial-*.log"))
    assert len(logs) == 2
    assert all("resuming after step" in log.read_text() for log in logs)
    with database(project) as records:
        assert [each["status"] for each in records.list_runs()] == ["completed"] * 2


def test_what_cannot_be_run_is_one_clear_error(project):
    write_sweep(project, GRID)

    code, out, err = run(project, "sweep", "resume", SWEEP)
    assert (code, out) == (1, "")
    assert "the sweep tried has not begun" in err

    code, out, err = run(project, "sweep", "run", "specs/experiment.yaml")
    assert (code, out) == (1, "")
    assert "kind sweep is needed" in err
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "journal", "postgresql"])
def test_twelve_trials_of_two_workers_are_twelve_although_workers_are_killed_twice(project, kind, request):
    address = {
        "sqlite": lambda: "null",
        "journal": lambda: "journal://.work/sweeps/tried.log",
        "postgresql": lambda: request.getfixturevalue("postgresql"),
    }[kind]()
    project.set(LONGER)
    rates = [0.001 * number for number in range(1, 7)]
    space = f"  training.learning_rate: {json.dumps(rates)}\n  model.num_layers: [1, 2]\n"
    write_sweep(project, f"method: grid\nparallel_jobs: 2\nstorage: {address}\nspace:\n{space}")

    process = start(project, "sweep", "run", SWEEP)
    killed = [kill_one(process)]
    time.sleep(3)
    killed.append(kill_one(process))
    _, err = process.communicate()

    assert process.returncode == 0, err
    found = trials(project)
    assert [trial["number"] for trial in found] == list(range(12))
    assert {trial["state"] for trial in found} == {"completed"}
    assert len({json.dumps(trial["values"]) for trial in found}) == 12
    assert sum(trial["kills"] for trial in found) == 2
    with database(project) as records:
        runs = records.list_runs(limit=100)
        losses = {run["run_id"]: records.get_metrics(run["run_id"], "best_val_loss")[0]["value"] for run in runs}
    assert len(runs) == 12
    assert {run["status"] for run in runs} == {"completed"}
    lost = min(losses, key=lambda run_id: losses[run_id])
    assert json.loads(run(project, "sweep", "best", SWEEP, "--json")[1])["run_id"] == lost
    for trial in killed:
        log = (project.folder / ".work" / "sweeps" / "tried" / f"{trial}.log").read_text()
        assert "resuming after step" in log


@pytest.mark.slow
def test_a_training_that_is_killed_goes_on_under_its_own_number(project):
    project.set({**LONGER, "training.max_steps": 1500})
    write_sweep(project, GRID.replace(", 1.0e-2", ""))
    process = start(project, "sweep", "run", SWEEP, "--jobs", "1")
    deadline = time.monotonic() + 120
    while not (found := at_work(process)):
        assert time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    next(iter(found)).children(recursive=True)[-1].send_signal(signal.SIGKILL)  # the last born is the stage

    _, err = process.communicate()

    assert process.returncode == 0, err
    assert [(trial["state"], trial["kills"]) for trial in trials(project)] == [("completed", 1), ("completed", 0)]


@pytest.mark.slow
def test_a_trial_that_falls_behind_is_pruned_and_leaves_no_checkpoints(project):
    project.set({**LONGER, "training.max_steps": 3000})
    pruning = "pruning: {pruner: median, min_trials: 1, min_evaluations: 2}\n"
    write_sweep(project, f"method: grid\n{pruning}space:\n  training.learning_rate: [3.0e-3, 1.0e-6]\n")

    code, _, err = run(project, "sweep", "run", SWEEP)

    assert code == 0, err
    good, bad = trials(project)
    assert (good["state"], bad["state"]) == ("completed", "pruned")
    assert len(bad["losses"]) < len(good["losses"])
    assert not [*(project.folder / ".work" / "runs").glob("*")]
    with database(project) as records:
        record = records.get_record(bad["run_id"])
    assert record["status"] == "pruned"
    assert "others were better" in record["message"]
    assert (
        json.loads((project.folder / ".work" / "records" / f"{bad['run_id']}.json").read_text())["status"] == "pruned"
    )


@pytest.mark.slow
def test_another_sweep_command_with_a_work_folder_of_its_own_joins_through_the_storage(project, tmp_path):
    write_sweep(project, f"{GRID}storage: journal://{tmp_path}/shared.log\n")
    other = make_project(project.folder, tmp_path / "other")
    write_sweep(other, f"{GRID}storage: journal://{tmp_path}/shared.log\n")

    both = [start(each, "sweep", "run", SWEEP, "--jobs", "1") for each in (project, other)]
    said = [process.communicate()[1] for process in both]

    assert [process.returncode for process in both] == [0, 0], said
    assert [trial["state"] for trial in trials(project)] == ["completed"] * 3
    assert all("best_val_loss" in each for each in said), "each has run some"


@pytest.mark.slow
def test_trials_that_all_fail_end_the_sweep_with_the_code_of_the_first(project):
    write_sweep(project, GRID)
    project.set({"model.max_seq_len": 200_000})

    code, out, err = run(project, "sweep", "run", SWEEP)

    assert code == 4, err
    assert "not enough memory" in out
    assert {trial["state"] for trial in trials(project)} == {"failed"}


@pytest.mark.slow
def test_no_trial_starts_when_the_time_is_over(project):
    write_sweep(project, f"{GRID}budget: {{max_minutes: 0.001}}\n")

    code, _, err = run(project, "sweep", "run", SWEEP)

    assert code == 1
    assert "no trial was completed" in err
    assert trials(project) == []


@pytest.mark.slow
def test_dvc_alone_queues_a_grid_and_its_tasks_share_the_work_folder(project):
    assert run(project, "run")[0] == 0
    project.git("add", ".")
    project.git("commit", "--quiet", "-m", "Run")
    rates = "specs/experiment.yaml:training.learning_rate=0.001,0.004"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FOUNDRY_WORK": str(project.folder / ".work")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"

    def dvc(*arguments: str) -> str:
        command = [sys.executable, "-m", "dvc", *arguments]
        done = subprocess.run(command, cwd=project.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    dvc("exp", "run", "--queue", "-S", rates)
    dvc("queue", "start")
    deadline = time.monotonic() + 240
    while (status := dvc("queue", "status")).count("Success") < 2:
        assert "Failed" not in status
        assert time.monotonic() < deadline, status
        time.sleep(1)
    dvc("queue", "stop")

    shown = json.loads(dvc("exp", "show", "--json"))
    found = {
        experiment["revs"][0]["data"]["params"]["specs/experiment.yaml"]["data"]["training"]["learning_rate"]
        for revision in shown
        for experiment in revision["experiments"] or []
    }
    assert found == {0.001, 0.004}
    with database(project) as records:
        assert len(records.list_runs()) > 1, "stages of the clones are recorded in the work folder that they share"
