"""A project with a model that was trained in it, and a bundle of that."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tiny_models import model_folder

from pipeline.bundles.pack import create_repro_bundle
from pipeline.files import manifest_hash, read_json
from pipeline.records.experiments import ExperimentDB
from pipeline.records.rebuild import about

RUN = "0123456789abcdef0123456789abcdef"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(folder: Path) -> str:
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "A commit")
    return git(folder, "rev-parse", "HEAD")


def record_of(folder: Path, **changes: Any) -> dict[str, Any]:
    """The record of a run that left the model in a folder."""
    spec = read_json(folder / "artifacts/model/spec.json")
    model = {"sha256": manifest_hash(folder / "artifacts/model"), "bytes": 1, "inputs": {}}
    return {
        **about(spec),
        "run_id": RUN,
        "run_name": "tiny",
        "created_at": "2026-01-01T00:00:00.000000+00:00",
        "updated_at": "2026-01-01T00:01:00.000000+00:00",
        "finished_at": "2026-01-01T00:01:00.000000+00:00",
        "status": "completed",
        "config": spec,
        "origin": "foundry run",
        "toolkit_version": "0.1.0",
        "seconds": 60.0,
        "exit_code": 0,
        "spec_hash": None,
        "training_run_id": "00000000-0000-4000-8000-000000000000",
        "git_commit": git(folder, "rev-parse", "HEAD"),
        "git_dirty": False,
        "environment": {"python": "3.11.7", "platform": "Linux x86_64", "packages": {"numpy": "2.0.0"}},
        "artifacts": [{"artifact_type": "model", "filepath": "artifacts/model", "metadata": model}],
        **changes,
    }


def record(folder: Path, **changes: Any) -> None:
    with ExperimentDB(folder / ".work" / "experiments.db") as database:
        database.register_run(record_of(folder, **changes))


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


def git_init(folder: Path) -> None:
    git(folder, "init", "--quiet", "--initial-branch", "main")


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
