"""What is promised to have no influence on the weights has none: one run with all of it changed, and one without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from negative_controls import project

from pipeline.files import sha256_file
from pipeline.spec import load_spec

pytestmark = pytest.mark.e2e

INSTALLED = {name: str(find_spec(name) is not None).lower() for name in ("tensorboard", "wandb")}
# Settings of the train stage that do not change the weights, as the schemas say, and values that nobody has by default.
WITHOUT_EFFECT = {
    "model.model_name": "another",
    "task.task_name": "another",
    "task.label_threshold": 0.7,
    "logging.console_level": "warning",
    "logging.log_every_n_steps": 3,
    "logging.sample_prompts": '["the fox", "a"]',
    "logging.sample_max_new_tokens": 7,
    "logging.sample_temperature": 1.3,
    "logging.use_tensorboard": INSTALLED["tensorboard"],
    "logging.use_wandb": INSTALLED["wandb"],
    "logging.run_name": "another",
    "logging.wandb_project": "another",
    "logging.wandb_entity": "another",
    "logging.wandb_mode": "offline",
    "checkpointing.save_every_n_steps": 5,
    "checkpointing.save_every_n_epochs": "null",
    "checkpointing.save_every_n_minutes": 0.01,
    "checkpointing.keep_last_n": 2,
    "checkpointing.keep_best_k": 1,
    "checkpointing.monitor": "train_loss",
    "checkpointing.mode": "max",
    "checkpointing.checkpoint_schedule": "[2, 3]",
    "checkpointing.auto_generate_checkpoints": "true",
    "checkpointing.first_epoch_checkpoints": 2,
    "checkpointing.subsequent_epochs_spacing": "linear",
    "checkpointing.log_base": 3,
    "checkpointing.linear_interval": 4,
    "checkpointing.min_checkpoint_interval": 2,
    "checkpointing.min_checkpoints_per_epoch": 1,
    "checkpointing.keep_best_only": "true",
}
EVALUATION = {"training.eval_every_n_steps": 7}  # it decides which weights are the best, not what they are
STATE = ("model.safetensors", "optimizer.safetensors", "random.json")


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with an encoded corpus."""
    folder = tmp_path_factory.mktemp("promises") / "project"
    project(folder)
    return folder


def final_state(folder: Path, **environment: str) -> dict[str, str]:
    """Train in a project and keep the checkpoint of the last step: the hash of each of its files that matters."""
    command = [sys.executable, "-m", "pipeline.stages.train", "--keep-run"]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    last = max(folder.glob(".work/runs/*/checkpoint-*"))
    assert last.name == "checkpoint-00000044"
    return {name: sha256_file(last / name) for name in STATE}


def test_what_has_no_influence_by_promise_has_none(encoded: Path, tmp_path: Path) -> None:
    usual, changed = tmp_path / "usual", tmp_path / "in another folder" / "with spaces and ü"
    for folder in (usual, changed):
        shutil.copytree(encoded, folder)
    settings = [f"{name}={value}" for name, value in {**WITHOUT_EFFECT, **EVALUATION}.items()]
    subprocess.run(
        [sys.executable, "-m", "pipeline", "set", "specs/experiment.yaml", *settings],
        cwd=changed,
        check=True,
        capture_output=True,
    )

    expected = final_state(usual, PYTHONHASHSEED="0")
    found = final_state(changed, PYTHONHASHSEED="12345", TZ="Asia/Kathmandu", LC_ALL="C", COLUMNS="40")

    assert found == expected


def test_every_setting_without_effect_on_the_weights_is_among_them(encoded: Path) -> None:
    spec = load_spec(encoded / "specs/experiment.yaml")

    assert set(spec.leaves("train", effects=("none", "output", "speed"))) == set(WITHOUT_EFFECT)
