"""Training on pictures in processes of its own: a killed run ends like one that was left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from train_project import Project, assert_kills_change_nothing, project_of, trained_in

from pipeline.models.cnn import Cnn
from pipeline.models.store import load_model

pytestmark = pytest.mark.e2e

SPEC = """\
schema_version: 1
name: tiny-digits
dataset: {source: {kind: digits}, max_train_samples: 150, max_val_samples: 50}
task: {task_type: vision_classification}
model: {model_type: cnn, stage_channels: [4, 8], blocks_per_stage: 1, norm_groups: 2, dropout: 0.1}
training: {epochs: 4, batch_size: 8, gradient_accumulation_steps: 2}
hardware: {num_threads: 1, precision: 32-true, compile_mode: null}
checkpointing: {save_every_n_steps: 3}
"""


@pytest.fixture(scope="module")
def encoded(tmp_path_factory) -> Path:
    """A folder in which everything before training is done."""
    return project_of(tmp_path_factory.mktemp("encoded"), SPEC).folder


@pytest.fixture(scope="module")
def trained(encoded, tmp_path_factory) -> Project:
    return trained_in(encoded, tmp_path_factory.mktemp("trained") / "project")


def test_a_killed_run_ends_bit_for_bit_like_one_that_was_left_alone(trained, encoded, tmp_path):
    assert_kills_change_nothing(encoded, tmp_path / "killed", trained, steps=(3, 21))


def test_the_model_folder_holds_all_that_it_takes_to_use_the_model(trained):
    model, description = load_model(trained.folder / "artifacts/model")

    assert isinstance(model, Cnn)
    assert (description["task_type"], model.num_classes, model.image_size) == ("vision_classification", 10, (1, 8, 8))
    assert not (trained.folder / "artifacts/model/tokenizer.model").exists()
    tokenizer = json.loads((trained.folder / "artifacts/model/tokenizer.json").read_text())
    assert tokenizer["classes"] == [str(digit) for digit in range(10)]


def test_the_history_says_how_many_pictures_are_learned_from(trained):
    final = json.loads((trained.folder / "reports/training_metrics.json").read_text())["final_metrics"]

    assert final["total_tokens"] == 4 * 150
    assert final["bits_per_byte"] is None


@pytest.mark.parametrize("name", ["nope.png", "specs/experiment.yaml"])
def test_what_is_no_picture_is_refused_with_one_error_and_the_exit_code_of_a_wrong_command_line(trained, name):
    command = [sys.executable, "-m", "pipeline", "classify", name]
    done = subprocess.run(command, cwd=trained.folder, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {name}: ")
    assert "  hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
