"""Resuming is exact: nothing tells a run that was stopped from one that was not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_bench import Bench

from pipeline.errors import Preempted
from pipeline.files import write_json, write_manifest
from pipeline.training.checkpoint import newest_checkpoint

pytestmark = pytest.mark.unit

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The identity of an uninterrupted run: 8 steps an epoch, 24 in all."""
    bench = Bench(tmp_path_factory.mktemp("straight"))
    return bench.identity(bench.start())


@pytest.mark.parametrize("stops", [[1], [5], [8], [13], [23], [3, 4, 16], [24]], ids=str)
def test_a_run_stopped_anywhere_ends_bit_for_bit_as_if_it_had_not_been(
    make_bench: Make, straight: dict[str, Any], stops: list[int]
) -> None:
    bench = make_bench()
    with pytest.raises(Preempted):
        bench.start(stop_at=stops[0])
    for stop in stops[1:]:
        with pytest.raises(Preempted):
            bench.resume(stop_at=stop)

    assert bench.identity(bench.resume()) == straight


def test_a_killed_run_goes_on_from_its_last_checkpoint(make_bench: Make, straight: dict[str, Any]) -> None:
    bench = make_bench()
    bench.evaluate, evaluate = lambda: 1 / 0 if bench.model and len(bench.events) > 14 else evaluate(), bench.evaluate
    with pytest.raises(ZeroDivisionError):  # dies between two checkpoints, without a word
        bench.start()
    bench.evaluate = evaluate
    checkpoint, _ = newest_checkpoint(bench.folder)
    assert checkpoint is not None
    assert checkpoint.step < 16

    assert bench.identity(bench.resume()) == straight


def test_a_finished_run_resumed_does_nothing(make_bench: Make, straight: dict[str, Any]) -> None:
    bench = make_bench()
    bench.start()
    bench.events.clear()

    assert bench.identity(bench.resume()) == straight
    assert bench.events == []


def test_evaluating_and_saving_at_other_intervals_does_not_change_the_weights(
    make_bench: Make, straight: dict[str, Any]
) -> None:
    bench = make_bench(eval_every_n_steps=5, every_n_steps=None, keep_last_n=1)

    result = bench.start()

    assert bench.identity(result)["weights"] == straight["weights"]


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    """Muon beside AdamW, and a running mean of the weights."""
    return {"optimizer_name": "muon", "ema_decay": 0.9}


@pytest.fixture(scope="module")
def straight_recipe(tmp_path_factory: pytest.TempPathFactory, recipe: dict[str, Any]) -> dict[str, Any]:
    bench = Bench(tmp_path_factory.mktemp("recipe"), **recipe)
    return bench.identity(bench.start())


@pytest.mark.parametrize("stops", [[1], [13], [3, 4, 16], [24]], ids=str)
def test_muon_and_the_mean_of_the_weights_go_on_bit_for_bit(
    make_bench: Make, recipe: dict[str, Any], straight_recipe: dict[str, Any], stops: list[int]
) -> None:
    bench = make_bench(**recipe)
    with pytest.raises(Preempted):
        bench.start(stop_at=stops[0])
    for stop in stops[1:]:
        with pytest.raises(Preempted):
            bench.resume(stop_at=stop)

    assert bench.identity(bench.resume()) == straight_recipe


@pytest.mark.parametrize("kind", ["momentum_buffer:", "mean_weight:", "exp_avg:"])
def test_leaving_out_a_moment_of_muon_or_the_mean_is_noticed(
    make_bench: Make, recipe: dict[str, Any], straight_recipe: dict[str, Any], kind: str
) -> None:
    bench = make_bench(**recipe)
    with pytest.raises(Preempted):
        bench.start(stop_at=13)
    checkpoint, _ = newest_checkpoint(bench.folder)
    assert checkpoint is not None
    edit_moments(kind)(checkpoint.folder)
    write_manifest(checkpoint.folder, stage="train", sections={}, inputs={})

    assert bench.identity(bench.resume()) != straight_recipe


def test_keeping_a_mean_of_the_weights_does_not_change_them(make_bench: Make, straight: dict[str, Any]) -> None:
    bench = make_bench(ema_decay=0.9)

    identity = bench.identity(bench.start())

    assert identity["weights"] == straight["weights"]
    assert identity["best"] != straight["best"]


def edit_json(name: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        write_json(folder / name, value)

    return edit


def edit_moments(kind: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        moments = load_file(folder / "optimizer.safetensors")
        save_file(
            {key: torch.zeros_like(value) if key.startswith(kind) else value for key, value in moments.items()},
            folder / "optimizer.safetensors",
        )

    return edit


def other_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["norm.weight"][0] += 1e-4
    save_file(weights, folder / "model.safetensors")


def without_torch_state(states: Any) -> None:
    states["torch"] = bytes(torch.Generator().manual_seed(99).get_state().tolist()).hex()


FAULTS: dict[str, Callable[[Path], None]] = {
    "a weight off by a ten-thousandth": other_weights,
    "no first moments": edit_moments("exp_avg:"),
    "no second moments": edit_moments("exp_avg_sq:"),
    "no step counts": edit_moments("step:"),
    "another torch random state": edit_json("random.json", without_torch_state),
    "another python random state": edit_json("random.json", lambda states: states["python"][1].__setitem__(1, 1)),
    "another numpy random state": edit_json("random.json", lambda s: s["numpy"]["state"]["key"].__setitem__(1, 1)),
    "another place in the epoch": edit_json("state.json", lambda state: state["progress"].update(cursor=0)),
    "another epoch": edit_json("state.json", lambda state: state["progress"].update(epoch=0)),
    "another step": edit_json("state.json", lambda state: state["progress"].update(step=10)),
    "another best loss": edit_json("state.json", lambda state: state["progress"].update(best_val_loss=0.1)),
    "a lost token count": edit_json("state.json", lambda state: state["progress"].update(tokens=0)),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_leaving_out_any_item_of_the_state_is_noticed(
    make_bench: Make, straight: dict[str, Any], fault: Callable[[Path], None]
) -> None:
    bench = make_bench()
    with pytest.raises(Preempted):
        bench.start(stop_at=13)
    checkpoint, _ = newest_checkpoint(bench.folder)
    assert checkpoint is not None
    fault(checkpoint.folder)
    write_manifest(checkpoint.folder, stage="train", sections={}, inputs={})  # the damage looks like a true checkpoint

    assert bench.identity(bench.resume()) != straight
