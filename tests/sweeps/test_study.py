"""Trials in a storage that workers share: each is run once, and none is lost with its worker."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from documents import DOCUMENT, document

from pipeline.commands.sweep_worker import open_sweep
from pipeline.errors import FoundryError
from pipeline.sweeps import study
from pipeline.sweeps.study import MOST_KILLS

pytestmark = pytest.mark.integration

HERE = Path(__file__).parent
on_sqlite_too = pytest.mark.parametrize(
    "address", ["sqlite:///{}/sweeps.db", "journal://{}/sweeps.log"], ids=["sqlite", "journal"], indirect=True
)
GRID = """\
schema_version: 1
kind: sweep
name: tried
method: grid
space:
  training.learning_rate: [1e-3, 2e-3, 3e-3]
  model.num_layers: {kind: range, low: 2, high: 6, step: 2}
"""


def run_all(sweep, objective=lambda values: values["training.learning_rate"]):
    while held := sweep.take():
        with held:
            held.complete(objective(held.values))
    return sweep.trials()


def worker(program: str, sweep, address: str, place: Path) -> subprocess.Popen[str]:
    arguments = [sys.executable, HERE / program, json.dumps(sweep.document), address, place]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def killed_with_a_trial(sweep, address: str, place: Path) -> dict:
    """A worker in a process of its own takes a trial and is killed; what it had."""
    process = worker("holder.py", sweep, address, place)
    assert process.stdout is not None
    line = process.stdout.readline()
    process.kill()
    _, said = process.communicate()
    assert line, said
    return dict(json.loads(line))


def test_a_grid_tries_every_combination_once(opened):
    tried = [dict(trial.values) for trial in run_all(opened(GRID))]

    rates, layers = (1e-3, 2e-3, 3e-3), (2, 4, 6)
    assert tried == [{"training.learning_rate": rate, "model.num_layers": n} for rate in rates for n in layers]


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_what_is_drawn_depends_on_the_seed_and_not_on_the_process_that_draws(tmp_path, opened, method):
    changed = {"method": method, "startup_trials": 3}
    trials = []
    first = opened(changed=changed)
    for _ in range(12):
        held = opened(changed=changed).take()  # a new process for each
        with held:
            trials.append(dict(held.values))
            held.complete(held.values["training.learning_rate"])

    alone = run_all(opened(changed={**changed, "name": "again"}))

    assert [dict(trial.values) for trial in alone] == trials
    assert first.take() is None
    other = run_all(opened(changed={**changed, "name": "other", "seed": 7}))
    assert [dict(trial.values) for trial in other] != trials
    for trial in alone:
        assert 1e-4 <= trial.values["training.learning_rate"] <= 1e-2
        assert trial.values["model.num_layers"] in range(1, 9)
        assert trial.values["hardware.compile_mode"] in (None, "default")


def test_tpe_learns_from_the_trials_that_have_ended(opened):
    def distance(values):
        return abs(values["model.num_layers"] - 7)

    changed = {"budget": {"max_trials": 30, "max_minutes": None}, "startup_trials": 5, "method": "tpe"}
    trials = run_all(opened(changed=changed), distance)

    late, early = ([trial.objective for trial in some] for some in (trials[-10:], trials[:10]))
    assert sum(late) < sum(early)


def test_the_best_is_the_one_that_a_search_through_all_finds(opened):
    sweep = opened()
    trials = run_all(sweep)

    assert sweep.best() == min(trials, key=lambda trial: trial.objective)

    upwards = opened(changed={"name": "upwards", "objective": "validation/accuracy"})
    assert upwards.direction == "maximize"
    trials = run_all(upwards)
    assert upwards.best() == max(trials, key=lambda trial: trial.objective)


def test_a_sweep_without_completed_trials_has_no_best(opened):
    with pytest.raises(FoundryError, match="no trial of tried has been completed"):
        opened().best()


@on_sqlite_too
def test_workers_that_race_begin_no_trial_too_many(opened, address, tmp_path):
    sweep = opened()
    workers = [worker("taker.py", sweep, address, tmp_path / "here") for _ in range(2)]
    workers.append(worker("taker.py", sweep, address, tmp_path / "elsewhere"))

    said = [process.communicate()[1] for process in workers]

    assert [process.returncode for process in workers] == [0, 0, 0], said
    trials = sweep.trials()
    assert len(trials) == len({trial.run_id for trial in trials}) == 12
    assert {trial.state for trial in trials} == {"completed"}


def test_a_trial_that_a_worker_elsewhere_made_too_many_does_not_count(opened):
    sweep = opened(changed={"budget": {"max_trials": 1, "max_minutes": None}})
    run_all(sweep)
    sweep._study.ask()
    surplus = study.Held(sweep, sweep._study.ask(), sweep._place)

    assert sweep._is_surplus(surplus.number)
    surplus.give_up()

    assert surplus.number not in [trial.number for trial in sweep.trials()]


@on_sqlite_too
def test_the_trial_of_a_killed_worker_waits_with_its_number_and_values(opened, address, tmp_path):
    sweep = opened()
    lost = killed_with_a_trial(sweep, address, tmp_path / "here")

    with sweep.take() as held:
        assert (held.number, dict(held.values), held.kills) == (lost["number"], lost["values"], 1)
        held.complete(1.0)

    assert len(run_all(sweep)) == 12
    assert sweep.trials()[0].kills == 1


def test_the_trial_of_a_living_worker_is_left_alone(opened):
    sweep, other = opened(), opened()
    with sweep.take() as held, other.take() as another:
        assert held.number != another.number


def test_a_worker_elsewhere_is_taken_for_dead_after_it_has_been_silent_for_long_enough(opened, address, tmp_path):
    sweep = opened(changed={"budget": {"max_trials": 1, "max_minutes": None}}, grace=0.5)
    lost = killed_with_a_trial(sweep, address, tmp_path / "elsewhere")

    assert sweep.take() is None
    assert sweep.is_unclear()
    time.sleep(0.6)

    with sweep.take() as held:
        assert (held.number, held.kills) == (lost["number"], 1)


@on_sqlite_too
def test_a_worker_elsewhere_whose_pulse_beats_keeps_its_trial(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "BEAT_SECONDS", 0.0)
    changed = {"budget": {"max_trials": 1, "max_minutes": None}}
    sweep, elsewhere = opened(changed=changed, grace=0.5), opened(changed=changed, at=tmp_path / "elsewhere")
    with elsewhere.take() as held:
        assert sweep.take() is None
        time.sleep(0.6)
        assert held.beat()

        assert sweep.take() is None
        assert not sweep.is_unclear()


def test_who_was_taken_for_dead_and_is_not_notices_and_changes_nothing(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "BEAT_SECONDS", 0.0)
    changed = {"budget": {"max_trials": 1, "max_minutes": None}}
    sweep, elsewhere = opened(changed=changed, grace=0.1), opened(changed=changed, at=tmp_path / "elsewhere")
    with elsewhere.take() as late:
        sweep.take()
        time.sleep(0.2)
        with sweep.take() as held:
            assert not late.beat()
            late.complete(1.0)
            late.put_back()
            held.complete(2.0)

    assert [trial.objective for trial in sweep.trials()] == [2.0]


def test_what_kills_again_and_again_is_given_up(opened):
    sweep = opened()
    for kills in range(MOST_KILLS):
        with sweep.take() as held:
            assert (held.number, held.kills) == (0, kills)
            held.put_back(killed=True)

    with sweep.take() as held:
        assert held.number == 1
    assert sweep.trials()[0].state == "failed"
    assert "killed 5 times" in sweep.trials()[0].message


def test_a_trial_that_was_stopped_goes_on_and_nothing_is_held_against_it(opened):
    sweep = opened()
    with sweep.take() as held:
        values = dict(held.values)
        held.put_back()
    assert sweep.trials()[0].state == "waiting"

    with sweep.take() as held:
        assert (held.number, dict(held.values), held.kills) == (0, values, 0)


@on_sqlite_too
def test_each_way_to_end_is_told_apart(opened):
    sweep = opened()
    for end in (
        lambda held: held.refuse("the spec has 1 problem"),
        lambda held: held.fail("train stage: diverged", code=4),
        lambda held: held.prune("others were better"),
    ):
        with sweep.take() as held:
            end(held)

    ends = [(trial.state, trial.message, trial.exit_code) for trial in sweep.trials()]
    assert ends == [
        ("refused", "the spec has 1 problem", None),
        ("failed", "train stage: diverged", 4),
        ("pruned", "others were better", None),
    ]


@pytest.mark.parametrize(
    ("objective", "worse", "better"), [("best_val_loss", 9.0, 1.0), ("validation/accuracy", 9.0, 1.0)]
)
def test_the_median_stops_what_has_higher_losses_than_the_others_whatever_decides(opened, objective, worse, better):
    pruning = {"pruner": "median", "min_evaluations": 2, "min_trials": 3}
    sweep = opened(changed={"pruning": pruning, "objective": objective})
    for _ in range(3):
        with sweep.take() as held:
            assert not held.should_be_pruned([3.0])
            assert not held.should_be_pruned([3.0, 2.0])
            held.complete(0.5)

    with sweep.take() as held:
        assert not held.should_be_pruned([worse]), "it has not had its evaluations"
        assert held.should_be_pruned([worse, worse])
        held.put_back()
    with sweep.take() as held:
        assert held.should_be_pruned([worse, worse]), "what was told before is told once"
        held.prune("bad")
    with sweep.take() as held:
        assert not held.should_be_pruned([better, better])

    assert dict(sweep.trials()[3].losses) == {1: worse, 2: worse}


def test_hyperband_stops_some_of_many(opened):
    pruning = {"pruner": "hyperband", "min_evaluations": 1, "min_trials": 5}
    sweep = opened(changed={"pruning": pruning, "budget": {"max_trials": 20, "max_minutes": None}})
    while held := sweep.take():
        with held:
            losses = [held.number + 1.0] * 9  # each is worse than the one before
            if any(held.should_be_pruned(losses[:count]) for count in range(1, 10)):
                held.prune("bad")
            else:
                held.complete(losses[-1])

    states = [trial.state for trial in sweep.trials()]
    assert states[0] == "completed"
    assert "pruned" in states


def test_a_sweep_with_another_space_under_the_same_name_is_refused(opened):
    opened()

    with pytest.raises(FoundryError, match="another space and method"):
        opened(GRID)


def test_more_trials_and_more_workers_are_the_same_sweep(opened):
    run_all(opened())

    more = opened(DOCUMENT.replace("12", "14") + "parallel_jobs: 3\n")

    assert len(run_all(more)) == 14


def test_a_sweep_that_has_not_begun_cannot_be_gone_on_with(opened):
    with pytest.raises(FoundryError, match="has not begun"):
        opened(create=False)


@on_sqlite_too
def test_a_sweep_whose_maker_was_killed_at_once_is_taken_over(opened, address, monkeypatch):
    import optuna

    monkeypatch.setattr(study, "_IDENTITY_SECONDS", 0.2)
    optuna.create_study(study_name="tried", storage=study.open_storage(address))

    assert len(run_all(opened())) == 12


@pytest.mark.parametrize("where", ["sqlite:////proc/none/x.db", "journal:///proc/none/x.log", "sqlite:///{}"])
def test_a_storage_that_cannot_be_opened_is_one_clear_error(tmp_path, where):
    with pytest.raises(FoundryError, match="the storage of the sweep cannot be opened") as caught:
        study.open_storage(where.format(tmp_path))

    assert caught.value.where
    assert caught.value.hint


def test_without_optuna_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)
    for name in ("storage", "study"):
        monkeypatch.delitem(sys.modules, f"pipeline.sweeps.{name}", raising=False)

    with pytest.raises(FoundryError, match="a sweep needs Optuna") as caught:
        open_sweep(document())

    assert "model-foundry[sweep]" in caught.value.hint


def test_a_server_that_does_not_answer_is_one_clear_error():
    with pytest.raises(FoundryError, match="cannot be opened"):
        study.open_storage("postgresql://nobody@127.0.0.1:1/none")
