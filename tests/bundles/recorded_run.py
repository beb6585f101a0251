"""A run that was recorded in a git repository, as far as packing looks at it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

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


def git_init(folder: Path) -> None:
    git(folder, "init", "--quiet", "--initial-branch", "main")
