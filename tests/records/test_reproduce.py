"""Beside a run stands what it takes to get its weights again."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import TrainingError
from pipeline.files import read_artefact, write_manifest
from pipeline.records.experiments import ExperimentDB
from pipeline.records.recording import recorded
from pipeline.spec import load_spec

pytestmark = pytest.mark.integration

FOLDER = Path(".work/records/one")
BUILT = [{"stage": stage, "outcome": "built", "seconds": 1.0, "exit_code": 0} for stage in ("corpus", "train")]


def git(*arguments: str, folder: Path = Path()) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def project(checkout, tmp_path, monkeypatch) -> Path:
    """A repository with a spec, and a folder of outputs that git does not know."""
    folder = tmp_path / "project"
    (folder / "specs").mkdir(parents=True)
    monkeypatch.chdir(folder)
    shutil.copy(checkout / "specs" / "experiment.yaml", "specs")
    Path(".gitignore").write_text("/artifacts/\n/.work/\n")
    Path("code.py").write_text("print(1)\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    return folder


def leave(name: str, content: bytes, *, error: BaseException | None = None, **inputs: str) -> None:
    """What a stage leaves before it ends, perhaps by an error: one file and the manifest."""
    folder = Path("artifacts") / name
    folder.mkdir(parents=True)
    (folder / f"{name}.bin").write_bytes(content)
    write_manifest(folder, stage="train", sections={}, inputs=inputs)
    if error is not None:
        raise error


def run(stages: list[dict[str, Any]] = BUILT) -> str:
    """Run with success; what the instructions say."""
    with recorded("one", lambda _: stages):
        leave("corpus", b"text", **{"texts/a.txt": "a" * 64})
        leave("model", b"weights", tokenizer="b" * 64)
    return (FOLDER / "REPRODUCE.md").read_text()


def test_the_instructions_name_commit_data_packages_and_what_the_weights_depend_on(project):
    said = run()

    assert f"git checkout {git('rev-parse', 'HEAD')}" in said
    assert f"| `texts/a.txt` | `{'a' * 64}` |" in said
    assert "`tokenizer`" not in said  # it is made by the run itself
    assert "changes.patch" not in said
    assert not (FOLDER / "changes.patch").exists()
    assert "torch==" in (FOLDER / "requirements.txt").read_text()
    assert read_artefact(FOLDER / "environment.json", "environment")["git"]["dirty"] is False
    assert str(project) not in said


def test_the_patch_makes_a_clean_clone_what_the_folder_was(project, tmp_path):
    Path("code.py").write_text("print(2)\n")

    said = run()

    git("clone", "--quiet", str(project), str(tmp_path / "clone"))
    git("apply", str((FOLDER / "changes.patch").resolve()), folder=tmp_path / "clone")
    assert (tmp_path / "clone" / "code.py").read_text() == "print(2)\n"
    assert 'git apply "$RUN/changes.patch"' in said


def test_a_change_that_a_patch_cannot_hold_is_named(project):
    Path("code.py").write_bytes(b"\0\1\2")

    assert "Nor is what changed in binary files." in run()


def test_the_spec_is_read_as_it_was(project):
    run()

    shutil.copy(FOLDER / "spec.json", "again.yaml")
    assert load_spec("again.yaml").hash() == load_spec("specs/experiment.yaml").hash()


def test_the_hashes_are_those_of_the_files_and_a_changed_one_is_found(project):
    run()

    sums = (FOLDER / "SHA256SUMS").read_text()
    assert f"{hashlib.sha256(b'weights').hexdigest()}  artifacts/model/model.bin" in sums
    check = ["sha256sum", "-c", str(FOLDER / "SHA256SUMS")]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0
    Path("artifacts/model/model.bin").write_bytes(b"wrights")
    assert subprocess.run(check, capture_output=True, check=False).returncode == 1


def test_outside_of_git_the_version_is_named(project):
    shutil.rmtree(".git")

    assert "It was in no git repository: take Model Foundry" in run()


def test_a_run_without_a_model_and_one_that_failed_leave_no_instructions(project):
    with recorded("one", lambda _: []):
        pass
    with pytest.raises(TrainingError), recorded("two", lambda _: BUILT):
        leave("model", b"weights", error=TrainingError("no number"))

    assert not list(Path(".work/records").glob("*/REPRODUCE.md"))


def test_the_database_and_the_file_of_the_run_are_as_without(project):
    run()

    with ExperimentDB() as database:
        record = database.get_record("one")
    assert {row["artifact_type"] for row in record["artifacts"]} == {"corpus", "model"}
    assert (FOLDER.parent / "one.json").is_file()
