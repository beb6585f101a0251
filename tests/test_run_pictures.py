"""`foundry run` on pictures, end to end: the preset as it stands, a folder of class folders, and a table of labels."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_run import COPIED, Project

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def project(checkout, tmp_path) -> Project:
    """A fresh project."""
    for name in COPIED:
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_of = shutil.copytree if (checkout / name).is_dir() else shutil.copy
        copy_of(checkout / name, target)
    project = Project(tmp_path)
    project.git("init", "--quiet")
    return project


def new(project: Project, *settings: str) -> None:
    options = [option for setting in settings for option in ("--set", setting)]
    output = str(project.spec.relative_to(project.folder))
    code, _, err = project.run("new", "pictures", "--from", "vision_tiny", "-o", output, "--force", *options)
    assert code == 0, err


def report(project: Project, name: str) -> dict:
    return json.loads((project.folder / "reports" / name).read_text())


def test_the_preset_reads_digits_it_has_never_seen(project):
    new(project)

    assert set(project.happened().values()) == {"built"}

    validation = report(project, "validation.json")
    assert validation["split"] == "test"
    assert validation["metrics"]["accuracy"] >= 0.97
    assert validation["baselines"]["majority_accuracy"] < 0.2
    assert sum(map(sum, validation["confusion"]["counts"])) == validation["scored"]["documents"]
    assert report(project, "health_report.json")["all_passed"]
    assert set(project.happened().values()) == {"unchanged"}


def test_a_folder_of_class_folders_is_learned_and_a_picture_of_any_size_is_classified(project):
    colours = {"blue": (30, 30, 220), "green": (30, 200, 30), "red": (220, 30, 30)}
    for number in range(120):
        name = sorted(colours)[number % 3]
        grain = np.random.default_rng(number).integers(-25, 25, (10, 12, 3))
        path = project.folder / "pictures" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(np.array(colours[name]) + grain, 0, 255).astype(np.uint8)).save(path)
    source = "dataset.source={kind: image_folder, path: pictures, image_size: [3, 8, 8]}"
    new(
        project,
        source,
        "model.stage_channels=[8, 16]",
        "model.norm_groups=4",
        "training.epochs=8",
        "validation.budgets.val_loss=null",
    )

    assert set(project.happened().values()) == {"built"}

    validation = report(project, "validation.json")
    assert validation["metrics"]["accuracy"] >= 0.9
    assert validation["confusion"]["classes"] == sorted(colours)
    assert report(project, "health_report.json")["all_passed"]
    Image.new("RGBA", (300, 200), (*colours["red"], 255)).save(Path(project.folder) / "new.webp")
    code, out, err = project.run("classify", "new.webp")
    assert code == 0, err
    assert out.splitlines()[0].endswith("red")


def test_the_labels_of_the_guide_are_learned(project, checkout):
    guide = (checkout / "docs/vision.md").read_text()
    [program] = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    subprocess.run([sys.executable, "-c", program], cwd=project.folder, check=True)
    new(
        project,
        "task.task_type=vision_multilabel",
        "dataset.source={kind: image_table, path: pictures/labels.csv, image_size: [1, 16, 16]}",
    )

    assert set(project.happened().values()) == {"built"}

    validation = report(project, "validation.json")
    assert validation["metrics"]["exact_match"] >= 0.85
    assert validation["metrics"]["micro_f1"] >= 0.95
    assert validation["metrics"]["val_loss"] < 0.2 * validation["baselines"]["frequency_loss"]
    assert report(project, "health_report.json")["all_passed"]
    with (project.folder / "pictures/labels.csv").open("a") as table:
        table.write("0000.png,\n")  # named twice
    code, _, err = project.run("run")
    assert code == 2
    assert "0000.png is named twice" in err
