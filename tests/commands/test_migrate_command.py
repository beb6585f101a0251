"""`foundry migrate` as a process: what it prints, what it writes, what it never writes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
CASES = Path(__file__).parents[1] / "cases" / "migrate"
FLAT = {"task_name": "lm_tiny", "num_layers": 2, "epochs": 3}


@pytest.fixture
def folder(tmp_path):
    """A folder with documents of four earlier systems, one of today, and files that are none."""
    for name in ("training-config", "trainer", "finetuning", "shell-call"):
        [old] = (CASES / name).glob("old.*")
        shutil.copy(old, tmp_path / f"{name}{old.suffix}")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "one-command.json").write_text('{"--vocab-size": 4000, "--epochs": 2}')
    (tmp_path / "today.yaml").write_text("schema_version: 1\nname: x\ndataset: {source: {kind: files, paths: [a]}}\n")
    (tmp_path / "package.json").write_text('{"name": "web", "scripts": {"build": "tsc"}}')
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "readme.txt").write_text("not looked at")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "old.json").write_text(json.dumps(FLAT))
    return tmp_path


def foundry(folder, *arguments):
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_without_write_everything_is_shown_and_nothing_is_written(folder):
    before = files_of(folder)

    done = foundry(folder, "migrate", "training-config.json", "trainer.yaml", "--text", "corpus")

    assert done.returncode == 0, done.stderr
    assert files_of(folder) == before
    assert "  warmup_ratio                 dropped: the earlier trainer made no schedule" in done.stdout
    assert "--- training-config.json\n+++ training-config.yaml\n" in done.stdout
    assert "--- trainer.yaml\n+++ trainer.yaml\n" in done.stdout
    assert "-experiment_name: bard # as in the paper\n" in done.stdout
    assert done.stdout.endswith("nothing is written; --write writes training-config.yaml, trainer.yaml\n")


def test_a_folder_is_migrated_and_what_is_no_document_is_named(folder):
    done = foundry(folder, "migrate", ".", "--text", "corpus", "--write")

    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("written: ")] == [
        "written: finetuning.yaml",
        "written: inner/one-command.yaml",
        "written: trainer.yaml",
        "written: training-config.yaml",
    ]
    assert "today.yaml: version 1 already" in done.stdout
    assert "package.json: skipped" in done.stderr
    assert "list.json: skipped" in done.stderr
    assert ".hidden/" not in done.stdout + done.stderr
    checked = foundry(folder, "check", "finetuning.yaml", "inner/one-command.yaml", "trainer.yaml", "today.yaml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_migrating_twice_changes_nothing_more(folder):
    foundry(folder, "migrate", ".", "--text", "corpus", "--write")
    after = files_of(folder)

    done = foundry(folder, "migrate", ".", "--text", "corpus", "--write")

    assert done.returncode == 0, done.stderr
    assert files_of(folder) == after


def test_a_document_of_today_is_nothing_to_migrate(folder):
    done = foundry(folder, "migrate", "today.yaml")

    assert (done.returncode, done.stdout) == (0, "today.yaml: version 1 already\nnothing to migrate\n")


def test_another_file_is_never_written_over_and_then_nothing_is_written(folder):
    (folder / "training-config.yaml").write_text("mine: true\n")
    before = files_of(folder)

    done = foundry(folder, "migrate", "training-config.json", "shell-call.sh", "--text", "corpus", "--write")

    assert done.returncode == 1
    assert "training-config.yaml: the file exists and is not what training-config.json would become" in done.stderr
    assert done.stderr.endswith("nothing is written\n")
    assert files_of(folder) == before


def test_two_files_that_lead_to_one_are_refused(folder):
    shutil.copy(folder / "shell-call.sh", folder / "training-config.sh")

    done = foundry(folder, "migrate", "training-config.json", "training-config.sh", "--text", "corpus", "--write")

    assert done.returncode == 1
    assert "both training-config.json and training-config.sh would be written to this file" in done.stderr
    assert not (folder / "training-config.yaml").exists()


def test_one_file_that_cannot_be_migrated_keeps_all_from_being_written(folder):
    (folder / "wrong.json").write_text(json.dumps({**FLAT, "dropout": 7.0}))
    before = files_of(folder)

    done = foundry(folder, "migrate", ".", "--text", "corpus", "--write")

    assert done.returncode == 1
    assert "error[E0303]: `model.dropout` must be below 1, but is 7.0" in done.stderr
    assert files_of(folder) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.json"], "the file does not exist"),
        (["package.json"], "neither a document of today nor"),
        (["list.json"], "this file holds a list"),
        (["today.yaml", "--drop", "epochs"], "no file has the key that --drop names: epochs"),
        (["trainer.yaml", "--text", "corpus"], "no file needs to be told where its text is"),
        (["trainer.yaml", "--dialect", "trainers"], "did you mean trainer?"),
        ([], "Missing argument"),
    ],
)
def test_what_cannot_be_done_is_one_clear_error(folder, arguments, message):
    done = foundry(folder, "migrate", *arguments)

    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_text_is_refused(folder):
    (folder / "call.sh").write_bytes(b"\xff\xfe--epochs 3")

    done = foundry(folder, "migrate", "call.sh")

    assert done.returncode == 1
    assert "the file cannot be read" in done.stderr
