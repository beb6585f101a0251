"""`foundry prove-resume` on a tiny experiment: real trainers, really killed; and damage that the proof must find."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.artefacts import check_artefact
from pipeline.commands.proof import ProofError, prove
from pipeline.console import Progress
from pipeline.files import write_json, write_manifest
from pipeline.spec import load_spec

pytestmark = pytest.mark.e2e

SPEC = """\
schema_version: 1
name: tiny
dataset: {source: {kind: files, paths: [text.txt]}, split_method: contiguous}
tokenizer: {vocab_size: 300}
model: {d_model: 32, num_layers: 2, num_heads: 2, d_ff: 64, max_seq_len: 32, dropout: 0.1}
training: {epochs: 100, max_steps: 240, batch_size: 8, gradient_accumulation_steps: 2}
hardware: {num_threads: 1, precision: 32-true, compile_mode: null}
checkpointing: {save_every_n_steps: 100}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "specs").mkdir()
    (folder / "specs/experiment.yaml").write_text(SPEC)
    words = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "while", "wizards", "box"]
    draw = random.Random(1)
    (folder / "text.txt").write_text("\n".join(" ".join(draw.choices(words, k=8)) for _ in range(400)))
    for stage in ("corpus", "tokenizer"):
        subprocess.run([sys.executable, "-m", f"pipeline.stages.{stage}"], cwd=folder, check=True, capture_output=True)
    return folder


def foundry(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "prove-resume", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=project, capture_output=True, text=True, env=environment, check=False)


def test_a_killed_run_is_certified_equal_item_by_item(project: Path) -> None:
    done = foundry(project, "--kills", "3", "-o", "reports/certificate.json")

    assert done.returncode == 0, done.stderr
    certificate = json.loads((project / "reports/certificate.json").read_text())
    check_artefact("resume_certificate", certificate, "certificate")
    assert certificate["equal"]
    assert {item["equal"] for item in certificate["items"].values()} == {True}
    assert {"weights", "second moments", "random state of torch", "next batch"} < certificate["items"].keys()
    assert certificate["steps"] == 240
    assert [kill["during"] for kill in certificate["kills"]] == ["step", "save", "step"]
    assert len(certificate["resumed_after_steps"]) >= 2
    page = (project / "reports/certificate.md").read_text()
    assert page.startswith("# Resume of tiny: Equal, bit for bit.")
    assert done.stdout == f"{page}\n"
    assert not list((project / ".work").glob("proof-*"))


def test_damage_between_a_kill_and_the_restart_is_found(project: Path, tmp_path: Path) -> None:
    def lose_the_place(folder: Path) -> None:
        for checkpoint in folder.glob(".work/runs/*/checkpoint-*"):
            state = json.loads((checkpoint / "state.json").read_text())
            state["progress"]["epoch"] += 1  # a sampler that goes on with other data
            write_json(checkpoint / "state.json", state)
            write_manifest(checkpoint, stage="train", sections={}, inputs={})

    certificate = prove(
        load_spec(project / "specs/experiment.yaml"),
        encoded=project / "artifacts/tokenizer",
        kills=1,
        steps=120,
        seed=3,
        scratch=tmp_path,
        compiled=tmp_path / "compiled",
        shown=lambda label, total: Progress(label, total, "steps"),
        after_kill=lose_the_place,
    )

    assert certificate["resumed_after_steps"], "the damaged checkpoint was used"
    assert not certificate["equal"]
    assert not certificate["items"]["weights"]["equal"]
    assert not certificate["items"]["place, counters and losses"]["equal"]


def test_a_run_too_short_for_its_kills_is_refused(project: Path, tmp_path: Path) -> None:
    with pytest.raises(ProofError, match="5 kills do not fit into a run of 4 steps"):
        prove(
            load_spec(project / "specs/experiment.yaml"),
            encoded=project / "artifacts/tokenizer",
            kills=5,
            steps=4,
            seed=0,
            scratch=tmp_path,
            compiled=tmp_path / "compiled",
            shown=lambda label, total: Progress(label, total, "steps"),
        )


def test_a_project_without_an_encoded_corpus_is_told_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs/experiment.yaml").write_text(SPEC)

    done = foundry(tmp_path)

    assert done.returncode == 1
    assert "artifacts/tokenizer: the folder does not exist" in done.stderr
    assert "foundry run" in done.stderr
    assert "Traceback" not in done.stderr
