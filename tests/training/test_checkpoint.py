"""Checkpoints: complete or absent, checked on reading, one trainer at a time."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from described import checkpoint_metadata

from pipeline.errors import Preempted, TrainingError
from pipeline.training import checkpoint as room
from pipeline.training.checkpoint import newest_checkpoint, save_checkpoint
from pipeline.training.events import CheckpointSaved
from pipeline.training.optimizer import adamw
from pipeline.training.run_folder import locked

pytestmark = pytest.mark.unit

Make = Callable[..., Any]


def save(bench: Any, *, step: int) -> Path:
    """A checkpoint of a bench's model under the number of another step."""
    checkpoint, _ = newest_checkpoint(bench.folder)
    return save_checkpoint(
        bench.folder,
        model=bench.model,
        optimizer=bench.optimizer,
        state={**checkpoint.state, "step": step},
        metadata=checkpoint_metadata(step),
        best=None,
    )


@pytest.fixture
def stopped(make_bench: Make) -> Any:
    """A run with checkpoints of steps 12 and 13."""
    bench = make_bench(eval_every_n_steps=1000, ema_decay=0.9)
    with pytest.raises(Preempted):
        bench.start(stop_at=13)
    return bench


def test_the_newest_checkpoints_are_kept_and_nothing_else(stopped: Any) -> None:
    assert sorted(path.name for path in stopped.folder.iterdir()) == ["checkpoint-00000012", "checkpoint-00000013"]


def test_a_damaged_checkpoint_is_passed_over_and_named(stopped: Any) -> None:
    rng = random.Random(0)
    newest = stopped.folder / "checkpoint-00000013"
    for path in sorted(newest.iterdir()):
        whole = path.read_bytes()
        place = rng.randrange(len(whole))
        for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]):
            path.unlink()
            path.write_bytes(damaged)

            found, problems = newest_checkpoint(stopped.folder)

            assert found is not None
            assert found.step == 12
            assert len(problems) == 1
            assert "checkpoint-00000013" in problems[0]
        path.write_bytes(whole)
    found, problems = newest_checkpoint(stopped.folder)
    assert found is not None
    assert (found.step, problems) == (13, [])


def test_with_every_checkpoint_damaged_there_is_none(stopped: Any) -> None:
    for path in stopped.folder.glob("*/state.json"):
        path.write_text("{}")

    found, problems = newest_checkpoint(stopped.folder)

    assert found is None
    assert len(problems) == 2


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    model.weight.data[1, 1] = float("inf")
    optimizer = adamw(model, learning_rate=1.0, beta1=0.9, beta2=0.9, epsilon=1e-8, weight_decay=0.0)

    with pytest.raises(TrainingError, match="weight is not finite"):
        save_checkpoint(
            tmp_path, model=model, optimizer=optimizer, state={"step": 1}, metadata=checkpoint_metadata(1), best=None
        )

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["exp_avg", "exp_avg_sq", "mean_weight"])
def test_moments_and_means_that_are_not_finite_are_not_saved(stopped: Any, kind: str) -> None:
    bench = stopped
    names = [path.name for path in bench.folder.iterdir()]
    bench.optimizer.state[bench.model.norm.weight][kind][3] = float("nan")

    with pytest.raises(TrainingError, match=f"the moment {kind}:norm.weight is not finite"):
        save(bench, step=14)

    assert [path.name for path in bench.folder.iterdir()] == names


def test_a_save_that_fails_leaves_the_checkpoints_as_they_were(stopped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in stopped.folder.glob("*/*")}
    written: list[int] = []
    real = os.fsync

    def full(descriptor: int) -> None:  # the disk fills up at the fourth file
        written.append(descriptor)
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrainingError, match=r"the disk is full: a checkpoint needs [\d,]+ bytes, and there are"):
        save(stopped, step=14)

    assert {path: path.read_bytes() for path in stopped.folder.glob("*/*")} == before
    assert len(list(stopped.folder.iterdir())) == 2


def test_what_a_killed_save_left_is_cleared_when_the_folder_is_locked(stopped: Any) -> None:
    leftover = stopped.folder / ".tmp-checkpoint-00000014"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")

    with locked(stopped.folder):
        assert not leftover.exists()


def test_a_second_trainer_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from pipeline.training.run_folder import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "locked\n"

    with pytest.raises(TrainingError, match=f"process {first.pid} is already training"), locked(tmp_path):
        pass

    first.kill()  # without a chance to clean up
    first.communicate()
    with locked(tmp_path):
        assert (tmp_path / "lock").read_text().splitlines()[0] == f"process {os.getpid()}"


def test_the_best_weights_travel_from_checkpoint_to_checkpoint(make_bench: Make) -> None:
    bench = make_bench(eval_every_n_steps=4, keep_last_n=1)
    losses = iter([3.0, 2.0, 2.5, 2.6, 2.7, 2.8])
    bench.evaluate = lambda: next(losses)
    saved: dict[int, bytes] = {}
    emit = bench.events.append

    def watch(event: Any) -> None:
        emit(event)
        if isinstance(event, CheckpointSaved):
            folder = bench.folder / f"checkpoint-{event.step:08d}"
            saved[event.step] = (folder / "model.safetensors").read_bytes()

    bench.events = type("Watched", (list,), {"append": lambda _self, event: watch(event)})()
    emit = list.append.__get__(bench.events)

    result = bench.start()

    assert result.progress.best_step == 8
    assert result.best_weights is not None
    assert result.best_weights.read_bytes() == saved[8]
    assert saved[8] != saved[max(saved)]
    assert room.best_weights(result.best_weights.parent) == result.best_weights
