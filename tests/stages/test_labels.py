"""Pictures with any number of labels through the stages, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from train_project import Project, project_of

from pipeline.files import sha256_file

pytestmark = pytest.mark.e2e

SPEC = """\
schema_version: 1
name: colours
dataset: {source: {kind: image_table, path: pictures/labels.csv, image_size: [3, 4, 4]}}
task: {task_type: vision_multilabel}
model: {model_type: cnn, stage_channels: [8], blocks_per_stage: 1, norm_groups: 2}
training: {epochs: 40, batch_size: 16, learning_rate: 0.02}
hardware: {num_threads: 1, precision: 32-true, compile_mode: null}
validation: {budgets: {rss_mb: null, peak_mb: null, latency_p95_ms: null}}
export: {formats: [onnx, torchscript, pytorch]}
"""
COLOURS = ("red", "green", "blue")


def draw(folder: Path) -> None:
    """Pictures of which each colour fills a column or not, and a table that says which."""
    folder.mkdir()
    chance = np.random.default_rng(0)
    rows = ["file_name,labels"]
    for number in range(160):
        there = chance.integers(0, 2, 3)
        pixels = chance.integers(0, 60, (4, 4, 3))
        pixels[:, chance.integers(4)] += 180 * there
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{' '.join(name for name, is_there in zip(COLOURS, there, strict=True) if is_there)}")
    (folder / "labels.csv").write_text("\n".join(rows))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that was trained and judged."""
    folder = tmp_path_factory.mktemp("labels")
    draw(folder / "pictures")
    project = project_of(folder, SPEC)
    for stage in ("train", "validate"):
        assert project.run(stage) == (0, "")
    return project


def report(project: Project, name: str) -> dict:
    return json.loads((project.folder / "reports" / name).read_text())


def classify(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "classify", *arguments]
    return subprocess.run(command, cwd=project.folder, capture_output=True, text=True, check=False)


def test_labels_are_learned_and_judged_beside_their_frequencies(project: Project) -> None:
    validation = report(project, "validation.json")
    metrics, baselines = validation["metrics"], validation["baselines"]

    assert metrics["val_loss"] < 0.5 * baselines["frequency_loss"]
    assert metrics["exact_match"] > 0.7 > baselines["majority_exact_match"]
    assert metrics["micro_f1"] > 0.9 > baselines["every_label_micro_f1"]
    assert [row["label"] for row in validation["labels"]] == sorted(COLOURS)
    assert validation["scored"]["tokens"] == 3 * validation["scored"]["documents"]
    assert validation["budgets"][0]["unit"] == "nats per label"


def test_every_label_of_a_picture_file_is_printed(project: Project) -> None:
    Image.new("RGB", (30, 20), (240, 240, 20)).save(project.folder / "yellow.png")
    Image.new("RGB", (30, 20), (10, 10, 10)).save(project.folder / "black.png")

    yellow, black = classify(project, "yellow.png"), classify(project, "black.png")

    assert {line.split()[1] for line in yellow.stdout.splitlines()} == {"red", "green"}
    assert (black.stdout, black.returncode) == ("", 0)
    assert black.stderr == "no label reaches the threshold of the model; --top 5 shows the likeliest\n"
    assert len(classify(project, "black.png", "--top", "3").stdout.splitlines()) == 3


@pytest.mark.slow
def test_another_threshold_changes_the_answers_and_not_the_weights(project: Project) -> None:
    weights = sha256_file(project.folder / "artifacts/model/model.safetensors")
    before = report(project, "validation.json")["metrics"]
    path = project.folder / "specs/experiment.yaml"
    path.write_text(SPEC.replace("vision_multilabel", "vision_multilabel, label_threshold: 0.01"))

    for stage in ("train", "validate", "export"):
        assert project.run(stage) == (0, "")

    assert sha256_file(project.folder / "artifacts/model/model.safetensors") == weights
    assert report(project, "validation.json")["metrics"]["recall"] >= before["recall"]
    assert report(project, "health_report.json")["all_passed"]
    assert "| one picture |" in (project.folder / "reports/health_report.md").read_text()
    assert len(classify(project, "pictures/0.png").stdout.splitlines()) >= 1
