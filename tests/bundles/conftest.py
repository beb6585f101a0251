"""A project with a model that was trained in it, and a bundle of that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from recorded_run import RUN, commit, git_init, record
from tiny_models import model_folder

from pipeline.bundles.pack import create_repro_bundle


@pytest.fixture(scope="session")
def trained(checkout, tmp_path_factory) -> Path:
    """A project whose run left a model and reports, all committed; not to be changed."""
    folder = tmp_path_factory.mktemp("trained") / "project"
    for name in ("pipeline/__init__.py", "pipeline/code.py", "dvc.yaml", "texts/one.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"# {name}\n")
    (folder / "pipeline/__main__.py").write_text("raise SystemExit(5)\n")  # every run of it ends so
    (folder / ".gitignore").write_text("/artifacts/\n/.work/\n/registry/\n*.zip\n")
    changes = {"dataset.source": {"kind": "files", "paths": ["texts"]}, "hardware.num_threads": 1}
    model_folder(folder / "artifacts/model", changes=changes)
    git_init(folder)
    reports = folder / "reports"
    reports.mkdir()
    metrics = json.loads((checkout / "reports/training_metrics.json").read_text())
    metrics["run_id"] = "00000000-0000-4000-8000-000000000000"
    (reports / "training_metrics.json").write_text(json.dumps(metrics))
    shutil.copy(checkout / "reports/history.csv", reports)
    commit(folder)
    record(folder)
    return folder


@pytest.fixture
def project(trained, tmp_path, monkeypatch) -> Path:
    """A copy of it, to do anything with, and the current folder."""
    folder = tmp_path / "project"
    shutil.copytree(trained, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def sound(trained, tmp_path_factory) -> Path:
    """A bundle with nothing wrong in it; not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained)
        for name in ("FOUNDRY_WORK", "FOUNDRY_REGISTRY"):
            patch.delenv(name, raising=False)
        return create_repro_bundle(RUN[:8], tmp_path_factory.mktemp("sound") / "sound.zip", weights=True)
