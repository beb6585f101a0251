"""Checkpoints under attack: killed at any moment of a save, damaged in any byte, starved of room."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from damage import found
from tiny_runs import TinyRun

from pipeline.errors import ArtifactError
from pipeline.training.run_folder import checkpoint_folder, verify_checkpoint

pytestmark = pytest.mark.integration
HERE = Path(__file__).parent


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, HERE / script, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def survived(every: int) -> None:
    done = run("crash_points.py", "--every", every)
    if done.returncode == 77:
        pytest.skip(f"no crash points: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert "every time a run found a whole checkpoint and no leftovers" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="traces system calls as Linux does")
def test_a_kill_at_one_of_many_calls_of_a_save_leaves_a_whole_checkpoint() -> None:
    survived(every=41)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="traces system calls as Linux does")
def test_a_kill_at_any_call_of_a_save_leaves_a_whole_checkpoint() -> None:
    survived(every=1)


def test_a_random_damage_is_found_and_the_checkpoint_before_is_used(tmp_path: Path) -> None:
    counted = found(TinyRun(), tmp_path, trials=42, seed=1)

    assert counted.total() == 42
    assert len(counted) == 14  # each of seven files, flipped and cut off


@pytest.mark.parametrize(
    ("old", "new"),
    [('"toolkit_version": "', '"toolkit_version": "9'), ("}\n", "}"), ("\n  ", "\n   ")],
    ids=["another version", "no newline at the end", "another space"],
)
def test_a_change_that_leaves_the_manifest_valid_is_found(tmp_path: Path, old: str, new: str) -> None:
    TinyRun().save(tmp_path, 1, keep_last_n=1)
    manifest = checkpoint_folder(tmp_path, 1) / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(new.join(text.rsplit(old, 1)))
    assert manifest.read_text() != text

    with pytest.raises(ArtifactError, match="the manifest is not as it was written"):
        verify_checkpoint(checkpoint_folder(tmp_path, 1))


def test_a_file_that_may_not_grow_is_a_clear_error_and_changes_nothing(tmp_path: Path) -> None:
    done = run("starved.py", tmp_path / "run", "--file-limit", 40_000)

    assert done.returncode == 0, done.stderr
    assert "the disk is full: a checkpoint needs " in done.stdout
    assert "File too large" in done.stdout
    assert "run the same command again" in done.stdout


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_without_room_is_noticed_before_anything_is_written(small_disk: Path) -> None:
    done = run("starved.py", small_disk / "run")

    assert done.returncode == 0, done.stderr
    assert "the disk is full: a checkpoint needs " in done.stdout
    assert str(small_disk) in done.stdout
    assert "No space left" not in done.stdout  # the free space was compared first
