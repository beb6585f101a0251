"""The sweeps that are shipped, and the mode of notebooks for many runs: each of their trials is a right experiment."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from pipeline import run_grid_sweep
from pipeline.commands.sweep_projects import Projects
from pipeline.errors import FoundryError
from pipeline.paths import SPECS
from pipeline.spec.flat import build_configs_for_mode
from pipeline.spec.load import load_spec
from pipeline.spec.space import grid_values
from pipeline.sweeps.place import Place

pytestmark = pytest.mark.unit

SHIPPED = sorted((SPECS / "sweeps").glob("*.yaml"))


def test_the_sweeps_that_people_ask_for_first_are_shipped():
    assert {path.stem for path in SHIPPED} >= {"learning-rate", "depth-width", "batch-size"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_trial_of_a_shipped_sweep_is_a_right_experiment_with_its_values(path, checkout, tmp_path, monkeypatch):
    sweep = load_spec(path, kind="sweep").to_dict()
    monkeypatch.chdir(checkout)
    projects = Projects(sweep["name"], Path(sweep["base"]), Place(tmp_path))
    values = [grid_values(name, dimension) for name, dimension in sweep["space"].items()]

    texts = [
        projects.spec_with(dict(zip(sweep["space"], chosen, strict=True))) for chosen in itertools.product(*values)
    ]

    assert len(set(texts)) == len(texts) > 3


def test_a_trial_keeps_the_comments_of_its_base_and_a_wrong_one_says_what_is_wrong(checkout, tmp_path, monkeypatch):
    monkeypatch.chdir(checkout)
    projects = Projects("tried", Path("specs/experiment.yaml"), Place(tmp_path))

    assert "# 64 features a head" in projects.spec_with({"model.d_model": 96})
    with pytest.raises(FoundryError, match="d_model") as caught:
        projects.spec_with({"model.d_model": 97})
    assert "97" in str(caught.value)


def test_the_mode_for_ablations_is_the_base_of_a_grid(tmp_path):
    config, _, _ = build_configs_for_mode("ABLATION_SWEEP")
    seen = []

    def run(settings):
        path = tmp_path / f"{len(seen)}.json"
        path.write_text(json.dumps(settings))
        seen.append(load_spec(path))
        return str(len(seen))

    run_grid_sweep(config.to_dict(), {"model.dropout": [0.0, 0.1], "training.learning_rate": [1e-4, 2e-4]}, run)

    assert [(spec.model.dropout, spec.training.learning_rate) for spec in seen] == [
        (0.0, 1e-4),
        (0.0, 2e-4),
        (0.1, 1e-4),
        (0.1, 2e-4),
    ]
    assert {spec.training.epochs for spec in seen} == {2}
