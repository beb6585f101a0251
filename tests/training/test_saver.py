"""The saver: when it saves, what it keeps, what each checkpoint says of itself."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from described import checkpoint_metadata

from pipeline.errors import Preempted
from pipeline.files import write_artefact
from pipeline.revision import revision
from pipeline.training.checkpoint import newest_checkpoint
from pipeline.training.events import CheckpointSaved, StepDone
from pipeline.training.run_folder import checkpoints_in, holder, locked, prune, read_metadata, steps_kept

pytestmark = pytest.mark.unit

Make = Callable[..., Any]


def test_the_newest_and_the_best_and_the_scheduled_stay() -> None:
    figures = {1: 0.9, 2: 0.1, 3: None, 4: 0.2, 5: 0.8, 6: 0.3}

    assert steps_kept(figures, last=2, best=0, mode="min") == {5, 6}
    assert steps_kept(figures, last=1, best=2, mode="min") == {2, 4, 6}
    assert steps_kept(figures, last=1, best=2, mode="max") == {1, 5, 6}
    assert steps_kept(figures, last=0, best=0, mode="min", scheduled=(3, 7)) == {3}


def test_of_equally_good_checkpoints_the_newest_stays() -> None:
    assert steps_kept({1: 0.5, 2: 0.5}, last=0, best=1, mode="min") == {2}


def test_the_best_checkpoints_survive_newer_ones_and_a_restart(make_bench: Make) -> None:
    bench = make_bench(eval_every_n_steps=3, keep_last_n=1, keep_best_k=2)
    losses = iter([1.0, 5.0, 2.0, 4.0, 3.0, 6.0, 7.0, 8.0])
    bench.evaluate = lambda: next(losses)
    with pytest.raises(Preempted):
        bench.start(stop_at=10)

    assert [*checkpoints_in(bench.folder)] == [3, 9, 10]
    bench.resume()
    assert [*checkpoints_in(bench.folder)] == [3, 9, 24]


def test_a_schedule_is_kept_whole_and_begins_before_the_first_step(make_bench: Make) -> None:
    bench = make_bench(every_n_steps=None, eval_every_n_steps=1000, scheduled=(0, 2, 5), keep_last_n=1)
    bench.start()

    assert [*checkpoints_in(bench.folder)] == [0, 2, 5, 24]
    assert [read_metadata(folder)["scheduled"] for folder in checkpoints_in(bench.folder).values()] == [
        True,
        True,
        True,
        False,
    ]


def test_the_clock_saves_too(make_bench: Make) -> None:
    bench = make_bench(every_n_steps=None, eval_every_n_steps=1000, every_n_minutes=1e-9, max_steps=4, keep_last_n=9)
    bench.start()

    assert [event.step for event in bench.events if isinstance(event, CheckpointSaved)] == [1, 2, 3, 4]


def test_a_checkpoint_says_what_it_is(make_bench: Make) -> None:
    bench = make_bench(last=True)
    bench.start()
    about = read_metadata(checkpoints_in(bench.folder)[24])

    assert (about["step"], about["total_steps"], about["epoch"], about["finished"]) == (24, 24, 3, True)
    assert about["metrics"].keys() == {"train_loss", "val_loss"}
    assert about["tokens"] > 0


def test_what_is_newer_than_the_checkpoint_that_a_run_goes_on_from_goes(make_bench: Make) -> None:
    bench = make_bench(eval_every_n_steps=1000, keep_last_n=1)
    with pytest.raises(Preempted):
        bench.start(stop_at=12)
    checkpoints_in(bench.folder)[12].rename(bench.folder / "checkpoint-00000020")
    (bench.folder / "checkpoint-00000020/state.json").write_text("{}")  # damaged, and it would count as the newest
    bench.start(stop_at=None)

    assert [*checkpoints_in(bench.folder)] == [24]


def test_a_finished_run_that_is_resumed_does_nothing(make_bench: Make) -> None:
    bench = make_bench(last=True)
    first = bench.start()
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in bench.folder.glob("*/*")}
    weights = {name: tensor.clone() for name, tensor in bench.model.state_dict().items()}
    bench.events.clear()

    again = bench.resume()

    assert not [event for event in bench.events if isinstance(event, StepDone | CheckpointSaved)]
    assert again.progress == first.progress
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in bench.folder.glob("*/*")} == before
    assert all(bool((bench.model.state_dict()[name] == tensor).all()) for name, tensor in weights.items())


def test_checkpoints_are_in_the_order_of_their_steps_whatever_their_digits(tmp_path: Path) -> None:
    for step in (100_000_000, 99_999_999):
        (tmp_path / f"checkpoint-{step:08d}").mkdir()

    assert [*checkpoints_in(tmp_path)] == [99_999_999, 100_000_000]
    prune(tmp_path, keep={100_000_000})
    assert [*checkpoints_in(tmp_path)] == [100_000_000]


def test_metadata_that_is_malformed_is_not_written(tmp_path: Path) -> None:
    versions = {"format_version": 1, "toolkit_version": "1"}
    with pytest.raises(AssertionError, match="checkpoint_metadata"):
        write_artefact(
            tmp_path / "metadata.json", "checkpoint_metadata", {**versions, **checkpoint_metadata(1, git="abc")}
        )


def test_who_holds_a_run_folder_is_known_without_taking_it(tmp_path: Path) -> None:
    assert not holder(tmp_path)
    with locked(tmp_path):
        assert holder(tmp_path).startswith("process ")
    assert not holder(tmp_path)


def test_the_revision_is_that_of_the_checkout_and_none_outside_of_one(tmp_path: Path) -> None:
    assert revision(tmp_path) is None
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "file").write_text("one")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    clean = revision(tmp_path)
    (tmp_path / "file").write_text("two")

    assert clean is not None
    assert len(clean["commit"]) == 40
    assert not clean["dirty"]
    assert revision(tmp_path) == {**clean, "dirty": True}


def test_a_scheduled_run_is_read_back_from_any_of_its_checkpoints(make_bench: Make) -> None:
    bench = make_bench(scheduled=(0,), max_steps=2, every_n_steps=None)
    with pytest.raises(Preempted):
        bench.start(stop_at=1)
    prune(bench.folder, keep={0})

    checkpoint, problems = newest_checkpoint(bench.folder)

    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.moments, problems) == (0, {}, [])
    bench.resume()
