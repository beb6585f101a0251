"""`foundry prove-resume` on a tiny experiment: real trainers, really killed; and damage that the proof must find."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.artefacts import check_artefact
from pipeline.commands.proof import Ended, Proof, ProofError, _kill, _steps_to_kill_after
from pipeline.commands.prove_resume import command as prove_resume
from pipeline.errors import ExitCode
from pipeline.spec import load_spec

pytestmark = pytest.mark.e2e

SPEC = """\
schema_version: 1
name: tiny
dataset: {source: {kind: files, paths: [text.txt]}, split_method: contiguous}
tokenizer: {vocab_size: 300}
model: {d_model: 32, num_layers: 2, num_heads: 2, d_ff: 64, max_seq_len: 32, dropout: 0.1}
training: {epochs: 100, max_steps: 240, batch_size: 8, gradient_accumulation_steps: 2}
hardware: {num_threads: 1, precision: 32-true, compile_mode: default}
checkpointing: {save_every_n_steps: 40}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "specs").mkdir()
    (folder / "specs/experiment.yaml").write_text(SPEC)
    words = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "while", "wizards", "box"]
    draw = random.Random(1)
    (folder / "text.txt").write_text("\n".join(" ".join(draw.choices(words, k=8)) for _ in range(200)))
    for stage in ("corpus", "tokenizer"):
        subprocess.run([sys.executable, "-m", f"pipeline.stages.{stage}"], cwd=folder, check=True, capture_output=True)
    return folder


def foundry(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "prove-resume", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=project, capture_output=True, text=True, env=environment, check=False)


OTHERWISE = ("--steps", "90", "--precision", "bf16-mixed", "--eager", "--set", "model.dropout=0.2")


@pytest.fixture(scope="module")
def proven(project: Path) -> dict[str, Any]:
    """The certificate of a run that was killed three times, and what the command printed."""
    done = foundry(project, "--kills", "3", "-o", "docs/certificates/tiny.json", *OTHERWISE)
    assert done.returncode == 0, done.stderr
    return {**json.loads((project / "docs/certificates/tiny.json").read_text()), "printed": done.stdout}


def test_a_killed_run_is_certified_equal_item_by_item(project: Path, proven: dict[str, Any]) -> None:
    printed = proven.pop("printed")
    page = (project / "docs/certificates/tiny.md").read_text()

    check_artefact("resume_certificate", proven, "certificate")
    assert proven["equal"]
    assert proven["first_difference"] is None
    assert {item["equal"] for item in proven["items"].values()} == {True}
    assert {"weights", "optimizer: exp_avg_sq", "random state: torch", "next batch"} < proven["items"].keys()
    assert {"progress: cursor", "progress: tokens", "every step: learning_rate"} < proven["items"].keys()
    assert proven["steps"] == 90
    assert len(proven["resumed_after_steps"]) >= 2
    assert page.startswith("# Resume of tiny: Equal, bit for bit.")
    assert all(f"`{item['straight'][:16]}…`" in page for item in proven["items"].values())
    assert printed == f"{page}\n"
    assert not list((project / ".work").glob("proof-*"))


def test_kills_fall_into_every_kind_of_point_that_the_certificate_names(proven: dict[str, Any]) -> None:
    places = [kill["place"] for kill in proven["kills"]]

    assert [kill["during"] for kill in proven["kills"]] == ["moment", "accumulation", "save"]
    assert places[:2] == ["a random moment", "after backward pass 1 of a step"]  # of two
    assert places[2].startswith("inside the writing of a checkpoint, before ")
    assert min(proven["points"].values()) >= 1
    assert proven["points"]["twice_in_one_epoch"] >= 2


def test_what_is_set_for_the_proof_alone_stands_in_the_certificate(project: Path, proven: dict[str, Any]) -> None:
    overrides = {"hardware.precision": "bf16-mixed", "hardware.compile_mode": None, "model.dropout": 0.2}

    assert proven["overrides"] == {**overrides, "training.max_steps": 90}
    assert proven["settings"] == {**proven["settings"], **proven["overrides"]}
    assert proven["execution"]["precision"] == "bf16-mixed"
    assert "`hardware.precision: bf16-mixed`" in (project / "docs/certificates/tiny.md").read_text()
    assert (project / "specs/experiment.yaml").read_text() == SPEC


def test_runs_that_end_differently_are_kept_and_the_first_step_that_differs_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgetful = Path(__file__).resolve().parents[1] / "reliability/forgetful.py"
    stage = (sys.executable, str(forgetful), "a schedule that begins anew")
    monkeypatch.setattr("pipeline.commands.proof.Proof", partial(Proof, stage=stage))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.chdir(project)

    done = CliRunner().invoke(prove_resume, ["--kills", "1", "-o", "docs/red.json", *OTHERWISE])

    assert done.exit_code == ExitCode.TRAINING, done.output
    (kept,) = (project / ".work").glob("proof-*")
    certificate = json.loads((project / "docs/red.json").read_text())
    resumed = certificate["resumed_after_steps"][0]
    assert f"both are kept in {kept}" in done.stderr
    assert {folder.name for folder in kept.iterdir()} == {"straight", "killed"}
    assert certificate["first_difference"]["step"] == resumed + 1
    assert f"{resumed + 1}, taken by the process that went on after step {resumed}: learning_rate " in done.stdout
    shutil.rmtree(kept)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--precision", "banana"), "`hardware.precision`"),
        (("--set", "training.batch_size=0"), "`training.batch_size`"),
        (("--set", "training"), "`training` sets nothing"),
    ],
)
def test_a_wrong_override_is_refused_before_anything_runs(project: Path, option: tuple[str, str], said: str) -> None:
    done = foundry(project, *option)

    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_too_short_for_its_kills_is_refused(project: Path, tmp_path: Path) -> None:
    proof = Proof(load_spec(project / "specs/experiment.yaml"), project, tmp_path, lambda *_: pytest.fail("it began"))
    history = [{"step": step, "epoch": 1} for step in range(1, 5)]
    straight = Ended(metrics={}, history=history, items={}, seconds=0.0)

    with pytest.raises(ProofError, match="5 kills do not fit into a run of 4 steps"):
        proof.kill_again_and_again(tmp_path, straight, kills=5, seed=0)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    share=st.floats(0.01, 0.9),
    seed=st.integers(0, 100),
)
def test_the_steps_to_kill_after_are_in_order_and_two_share_an_epoch_where_there_is_room(
    lengths: list[int], share: float, seed: int
) -> None:
    epoch_of = dict(enumerate((epoch for epoch, length in enumerate(lengths, 1) for _ in range(length)), start=1))
    kills = max(1, int((0.95 * len(epoch_of) - 1) * share))
    assume(kills < int(0.95 * len(epoch_of)) - 1)

    steps = _steps_to_kill_after(epoch_of, kills=kills, rng=random.Random(seed))

    assert len(steps) == len(set(steps)) == kills
    assert steps == sorted(steps)
    assert min(steps) >= 1
    assert max(steps) < 0.95 * len(epoch_of)
    if kills > 1 and epoch_of[steps[0]] != epoch_of[steps[1]]:  # there was no room
        assert epoch_of.get(steps[0] + 2) != epoch_of[steps[0]] or steps[0] + 2 > 0.95 * len(epoch_of)


@pytest.mark.parametrize(
    ("during", "after", "epoch", "middle"),
    [
        ("moment", 0, 1, False),
        ("moment", 3, 1, True),
        ("moment", 5, 2, False),  # between two epochs
        ("accumulation", 5, 2, True),
        ("save", 5, 1, False),
        ("save", 10, 2, False),
        ("moment", 10, 2, False),
    ],
)
def test_a_kill_knows_the_epoch_that_it_hit(during: str, after: int, epoch: int, middle: bool) -> None:
    kill = _kill(during, "somewhere", after, {step: 1 if step < 6 else 2 for step in range(1, 11)})

    assert (kill.epoch, kill.mid_epoch) == (epoch, middle)


def test_a_project_without_an_encoded_corpus_is_told_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs/experiment.yaml").write_text(SPEC)

    done = foundry(tmp_path)

    assert done.returncode == 1
    assert "artifacts/tokenizer: the folder does not exist" in done.stderr
    assert "foundry run" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("registered", [False, True])
def test_a_training_that_starts_from_another_model_is_proven_like_any_other(
    project: Path, tmp_path: Path, registered: bool
) -> None:
    copied = shutil.copytree(project, tmp_path / "project")
    train = [sys.executable, "-m", "pipeline.stages.train"]
    subprocess.run(train, cwd=copied, check=True, capture_output=True)
    (copied / "artifacts/model").rename(copied / "earlier")
    start = "./earlier"
    if registered:
        register = [sys.executable, "-m", "pipeline", "models", "register", "earlier", "--name", "first"]
        subprocess.run(register, cwd=copied, check=True, capture_output=True)
        start = "first@1.0.0"

    setting = ("--set", f"training.resume_from_checkpoint={start}", "--steps", "40", "--eager")
    done = foundry(copied, "--kills", "1", "-o", "docs/warm.json", *setting)

    assert done.returncode == 0, done.stderr
    certificate = json.loads((copied / "docs/warm.json").read_text())
    assert certificate["equal"]
    assert certificate["overrides"]["training.resume_from_checkpoint"] == start
