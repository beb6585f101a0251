"""`foundry checkpoints` on run folders as training leaves them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from described import checkpoint_metadata

from pipeline import __version__
from pipeline.commands.checkpoints import command
from pipeline.files import write_artefact, write_manifest
from pipeline.paths import SPECS
from pipeline.training.run_folder import checkpoint_folder, checkpoints_in, locked

pytestmark = pytest.mark.integration


def checkpoint(run_folder: Path, step: int, **about: object) -> Path:
    """A checkpoint, as far as these commands read it."""
    folder = checkpoint_folder(run_folder, step)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(1000))
    versions = {"format_version": 1, "toolkit_version": __version__}
    metadata = {**versions, **checkpoint_metadata(step, **about)}
    write_artefact(folder / "metadata.json", "checkpoint_metadata", metadata)
    write_manifest(folder, stage="train", sections={}, inputs={})
    return folder


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An unfinished run `aaaa` and a finished one `bbbb` with a schedule."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ".work/runs"
    for step, loss in ((1, 0.1), (2, 0.3), (3, 0.2)):
        checkpoint(folder / "aaaa", step, metrics={"val_loss": loss})
    checkpoint(folder / "bbbb", 0, scheduled=True)
    checkpoint(folder / "bbbb", 100, finished=True)
    return folder


def foundry(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def steps(runs: Path) -> dict[str, list[int]]:
    return {folder.name: [*checkpoints_in(folder)] for folder in sorted(runs.iterdir())}


def test_the_list_shows_every_checkpoint_and_how_its_run_stands(runs: Path) -> None:
    rows = foundry("list").output.splitlines()
    found = json.loads(foundry("list", "--json").output)

    assert len(rows) == 6
    assert "unfinished" in rows[1]
    assert "0.1000" in rows[1]
    assert "finished, scheduled" in rows[4]
    assert [(run["run"], run["state"]) for run in found] == [("aaaa", "unfinished"), ("bbbb", "finished")]
    assert found[0]["checkpoints"][0]["metadata"]["experiment"] == "tiny"


def test_a_damaged_checkpoint_is_named_and_ends_with_4(runs: Path) -> None:
    assert foundry("verify").exit_code == 0
    (runs / "aaaa/checkpoint-00000002/model.safetensors").write_bytes(bytes(999))

    done = foundry("verify")

    assert done.exit_code == 4
    assert [line for line in done.output.splitlines() if line.startswith("damaged")] == [
        line for line in done.output.splitlines() if "checkpoint-00000002" in line
    ]
    assert foundry("verify", "bbbb").exit_code == 0


def test_a_dry_run_removes_nothing_and_says_what_would_go(runs: Path) -> None:
    before = steps(runs)

    said = foundry("prune", "--dry-run").output

    assert steps(runs) == before
    assert "would remove .work/runs/aaaa/checkpoint-00000001" in said
    foundry("prune")
    assert steps(runs) == {"aaaa": [3], "bbbb": [0, 100]}


def test_the_newest_sound_checkpoint_of_an_unfinished_run_stays_unless_all_go(runs: Path) -> None:
    (runs / "aaaa/checkpoint-00000003/model.safetensors").write_bytes(b"")

    foundry("prune", "--keep-last", "0")

    assert steps(runs) == {"aaaa": [2], "bbbb": [0]}
    foundry("prune", "--all")
    assert not list(runs.iterdir())


def test_the_best_stay_when_it_is_asked_for(runs: Path) -> None:
    foundry("prune", "--keep-last", "1", "--keep-best", "1", "aa")

    assert steps(runs) == {"aaaa": [1, 3], "bbbb": [0, 100]}


def test_what_is_young_stays(runs: Path) -> None:
    checkpoint(runs / "cccc", 5, timestamp="2999-01-01T00:00:00+00:00", finished=True)

    foundry("prune", "--all", "--older-than", "1")

    assert steps(runs) == {"cccc": [5]}


def test_a_run_that_is_training_is_left_alone(runs: Path) -> None:
    with locked(runs / "aaaa"):
        said = foundry("prune", "--all")
        assert "training" in foundry("list").output

    assert "left alone" in said.output
    assert steps(runs) == {"aaaa": [1, 2, 3]}


def test_a_run_that_is_not_there_is_an_error_that_names_those_that_are(runs: Path) -> None:
    done = foundry("verify", "zzzz")

    assert str(done.exception) == "no run zzzz has checkpoints here"
    assert "aaaa, bbbb" in done.exception.hint  # type: ignore[union-attr]


def test_the_plan_of_a_schedule_names_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (SPECS / "experiment.yaml").read_text().replace("checkpoint_schedule: []", "checkpoint_schedule: [0, 7]")
    (tmp_path / "spec.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)

    planned = json.loads(foundry("plan", "spec.yaml", "--json").output)

    assert planned["saves"]["schedule"] == [0, 7]
    assert planned["kept_after"] == 3
    assert "schedule          2   0, 7" in foundry("plan", "spec.yaml").output
