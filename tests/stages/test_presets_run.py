"""Every shipped preset runs through the five stages as `foundry new` writes it, smaller where that saves only time."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from typing import Any

import pytest

from pipeline.paths import STAGES
from pipeline.spec import load_spec
from pipeline.spec.presets import PRESETS, names
from pipeline.spec.write import inline

pytestmark = pytest.mark.e2e

# What only costs time: fewer texts, pieces, layers and steps, no compiling. Which parts are at work stays as it is.
SMALLER: dict[str, Any] = {
    "dataset.max_train_samples": 5,
    "dataset.max_val_samples": 1,
    "training.epochs": 1,
    "training.max_steps": 2,
    "training.early_stopping_patience": None,
    "hardware.compile_mode": None,
    "hardware.device": "cpu",
    "validation.on_budget_failure": "warn",
    "validation.max_new_tokens": 4,
    "export.formats": ["pytorch"],
    "export.generated_tokens": 4,
}
# One of each task and shape.
ALL_FORMATS = {"quick_test", "production", "cls_tiny", "mlm_tiny", "seq2seq_tiny", "vision_tiny"}
SMALLER_TEXT = {"tokenizer.vocab_size": 1000, "model.num_layers": 1}
ONE_BLOCK = {"model.blocks_per_stage": 1}
OWN: dict[str, dict[str, Any]] = {
    "vision_tiny": {"dataset.max_train_samples": 500, "dataset.max_val_samples": 100},
    "cls_tiny": {"dataset.max_train_samples": 500, "dataset.max_val_samples": 100},
    "seq2seq_tiny": {"dataset.max_train_samples": 2000, "dataset.max_val_samples": 100},
    "distributed": {"hardware.devices": 2},  # processes on this machine instead of four GPUs
    "fast_dev": {"tokenizer.vocab_size": 101},
}
NEEDS = {"vision_tiny": "sklearn"}


def run(folder, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done


def build(folder, preset, changes, **environment):
    """A spec from a preset, and all that is built from it."""
    settings = [f"--set={name}={inline(value)}" for name, value in changes.items()]
    run(folder, "pipeline", "new", "made", "--from", preset, "-o", "specs/experiment.yaml", *settings)
    for stage in STAGES:
        run(folder, f"pipeline.stages.{stage}", **environment)
    return json.loads((folder / "reports" / "training_metrics.json").read_text(encoding="utf-8"))["final_metrics"]


def test_the_smallest_preset_runs_on_texts_of_ones_own(tmp_path):
    chance = random.Random(1)
    lines = (" ".join(chance.choices(["king", "queen", "crown", "storm", "night"], k=8)) for _ in range(2000))
    (tmp_path / "tales.txt").write_text(".\n\n".join(lines), encoding="utf-8")
    own = {"dataset.source": {"kind": "files", "paths": ["tales.txt"]}, "dataset.split_method": "contiguous"}

    final = build(tmp_path, "quick_test", SMALLER | {"tokenizer.vocab_size": 280} | own)

    assert final["total_steps"] == 2
    assert (tmp_path / "artifacts" / "export" / "manifest.json").is_file()


@pytest.fixture(scope="session")
def downloads(tmp_path_factory):
    """A work folder for all presets, so that the plays are fetched once."""
    return tmp_path_factory.mktemp("work")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("preset", names(PRESETS))
def test_a_preset_runs_through_every_stage(preset, tmp_path, downloads):
    if preset in NEEDS and importlib.util.find_spec(NEEDS[preset]) is None:
        pytest.skip(f"needs {NEEDS[preset]}")
    smaller = {name: value for name, value in SMALLER.items() if name != "export.formats" or preset not in ALL_FORMATS}
    smaller |= (ONE_BLOCK if preset == "vision_tiny" else SMALLER_TEXT) | OWN.get(preset, {})

    final = build(tmp_path, preset, smaller, FOUNDRY_WORK=str(downloads))

    spec = load_spec(tmp_path / "specs" / "experiment.yaml")
    assert not [warning for warning in spec.warnings if warning.code == "W0103"]
    assert final["total_steps"] == 2
    assert final["final_val_loss"] > 0
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == {
        "corpus",
        "tokenizer",
        "model",
        "validation",
        "export",
    }
