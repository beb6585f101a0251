"""Training that starts from the weights of another run, in processes of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from train_project import SPEC, Project, encoded_project

from pipeline.commands.run import changed_start, plan
from pipeline.files import read_json, sha256_file, write_json

pytestmark = pytest.mark.e2e
WARM = SPEC.replace("epochs: 3", "epochs: 3, learning_rate: 0.01, resume_from_checkpoint: earlier")
WARM = WARM.replace("save_every_n_steps: 7", "save_every_n_steps: 7, checkpoint_schedule: [0]")


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a trained model in the folder `earlier`, whose spec asks to start from it."""
    project = encoded_project(tmp_path_factory.mktemp("encoded"))
    assert project.run("train") == (0, "")
    (project.folder / "artifacts/model").rename(project.folder / "earlier")
    (project.folder / "specs/experiment.yaml").write_text(WARM)
    return project.folder


@pytest.fixture
def project(encoded: Path, tmp_path: Path) -> Project:
    shutil.copytree(encoded, tmp_path / "project")
    return Project(tmp_path / "project")


@pytest.fixture(scope="module")
def straight(encoded: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A run that was left alone."""
    folder = tmp_path_factory.mktemp("straight") / "project"
    shutil.copytree(encoded, folder)
    project = Project(folder)
    assert project.run("train") == (0, "")
    return project


def test_a_run_begins_with_the_weights_of_the_folder_and_says_so_wherever_it_leaves_word(straight: Project) -> None:
    [first] = straight.folder.glob(".work/runs/*/checkpoint-00000000")
    weights, earlier = load_file(first / "model.safetensors"), load_file(straight.folder / "earlier/model.safetensors")
    manifest = read_json(straight.folder / "artifacts/model/manifest.json")
    metrics = read_json(straight.folder / "reports/training_metrics.json")
    sha256 = sha256_file(straight.folder / "earlier/model.safetensors")

    assert all(weights[name].equal(earlier[name]) for name in earlier)
    assert weights.keys() == earlier.keys()
    assert json.loads((first / "metadata.json").read_text())["tokens"] == 0
    assert not load_file(first / "optimizer.safetensors")
    assert manifest["inputs"]["start"] == sha256
    assert metrics["start"] == {"path": "earlier", "sha256": sha256}
    assert sha256_file(straight.folder / "artifacts/model/model.safetensors") != sha256


def test_a_killed_run_ends_like_one_that_was_not_though_what_it_started_from_has_gone(
    project: Project, straight: Project
) -> None:
    process = project.start("train")
    project.wait_for_checkpoint(process, step=7)
    process.kill()
    process.communicate()
    shutil.rmtree(project.folder / "earlier")

    assert project.run("train") == (0, "")

    assert project.weights() == straight.weights()
    assert project.record() == straight.record()
    assert read_json(project.folder / "reports/training_metrics.json")["start"]["path"] == "earlier"


def test_a_damaged_folder_ends_with_4_and_what_is_wrong(project: Project) -> None:
    data = bytearray((project.folder / "earlier/model.safetensors").read_bytes())
    data[-1] ^= 1
    (project.folder / "earlier/model.safetensors").write_bytes(data)

    code, message = project.run("train")

    assert code == 4
    assert "earlier/model.safetensors: the file is not the one" in message
    assert not (project.folder / "artifacts/model").exists()


def test_foundry_run_trains_again_when_the_weights_in_the_folder_are_others(
    straight: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(straight.folder, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    up_to_date = ["repro", "--single-item", "--no-run-cache", "train"]

    assert plan(None).commands == [["repro", "tokenizer"], up_to_date, ["repro"]]
    assert plan("validate").commands[:2] == [["repro", "tokenizer"], up_to_date]
    manifest = read_json(Path("earlier/manifest.json"))
    manifest["files"]["model.safetensors"]["sha256"] = 64 * "0"
    write_json(Path("earlier/manifest.json"), manifest)

    assert changed_start() == "earlier"
    assert plan(None).commands[1] == ["repro", "--single-item", "--no-run-cache", "--force", "train"]
    assert "the weights in earlier are not those that the model began with" in capfd.readouterr().err
    shutil.rmtree("earlier")
    assert not changed_start()  # the model stands, and nothing asks for another
