"""Every combination of some values, for scripts."""

from __future__ import annotations

import pytest

from pipeline import run_grid_sweep
from pipeline.errors import FoundryError

pytestmark = pytest.mark.unit

BASE = {"training": {"learning_rate": 0.1, "betas": [0.9]}, "model": {"d_model": 8}}


def test_every_combination_is_run_once_and_the_last_setting_changes_fastest():
    seen = []

    def run(settings):
        seen.append((settings["training"]["learning_rate"], settings["model"]["d_model"]))
        return f"run {len(seen)}"

    ids = run_grid_sweep(BASE, {"training.learning_rate": [1, 2], "model.d_model": [16, 32, 64]}, run)

    assert seen == [(rate, width) for rate in (1, 2) for width in (16, 32, 64)]
    assert ids == [f"run {number}" for number in range(1, 7)]


def test_what_a_run_does_to_its_settings_reaches_neither_the_base_nor_other_runs():
    values = [[0.5], [0.6]]
    seen = []

    def run(settings):
        seen.append([*settings["training"]["betas"], *settings["model"].values()])
        settings["training"]["betas"].append("changed")
        settings["model"].clear()
        return "run"

    run_grid_sweep(BASE, {"training.betas": values}, run)

    assert seen == [[0.5, 8], [0.6, 8]]
    assert BASE == {"training": {"learning_rate": 0.1, "betas": [0.9]}, "model": {"d_model": 8}}
    assert values == [[0.5], [0.6]]


@pytest.mark.parametrize("path", ["training.lr", "optimizer.lr", "training.learning_rate.x", "lr"])
def test_a_setting_that_the_base_does_not_have_is_refused_before_anything_is_run(path):
    def run(_settings):
        pytest.fail("it was run")

    with pytest.raises(FoundryError, match=path):
        run_grid_sweep(BASE, {"model.d_model": [16], path: [1]}, run)


def test_a_grid_without_settings_is_one_run():
    assert run_grid_sweep(BASE, {}, lambda _: "one") == ["one"]
