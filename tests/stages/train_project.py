"""A folder in which the train stage is run as people run it, and everything before training is done."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.files import sha256_file

SPEC = """\
schema_version: 1
name: tiny
dataset: {source: {kind: files, paths: [text.txt]}, split_method: contiguous}
tokenizer: {vocab_size: 300}
model: {d_model: 16, num_layers: 1, num_heads: 2, d_ff: 32, max_seq_len: 16, dropout: 0.1}
training: {epochs: 3, batch_size: 4, gradient_accumulation_steps: 2}
hardware: {num_threads: 1, precision: 32-true, compile_mode: null}
checkpointing: {save_every_n_steps: 7}
logging: {log_every_n_steps: 5, sample_prompts: ["the"], sample_max_new_tokens: 3}
"""


class Project:
    """A folder with a spec and an encoded corpus."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, stage: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", f"pipeline.stages.{stage}"],
            cwd=self.folder,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def run(self, stage: str) -> tuple[int, str]:
        """The exit code, and the last error message if any."""
        process = self.start(stage)
        _, err = process.communicate()
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(errors) <= 1, err
        assert "Traceback" not in err
        return process.returncode, errors[0] if errors else ""

    def wait_for_checkpoint(self, process: subprocess.Popen[str], *, step: int) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            steps = [int(path.name.split("-")[1]) for path in self.folder.glob(".work/runs/*/checkpoint-*")]
            if max(steps, default=0) >= step:
                return
            time.sleep(0.002)
        process.kill()
        pytest.fail(f"no checkpoint of step {step}: {process.communicate()[1]}")

    def record(self) -> list[object]:
        """What the reports say about the run, but for times, throughput and memory."""
        metrics = json.loads((self.folder / "reports/training_metrics.json").read_text())
        rows = (self.folder / "reports/history.csv").read_text().splitlines()
        figures = [row.split(",")[:5] + row.split(",")[6:7] for row in rows]
        return [metrics["epoch_history"], metrics["samples"], figures]

    def ledger(self) -> bytes:
        """What every step came to."""
        return (self.folder / "artifacts/model/ledger.jsonl").read_bytes()

    def weights(self) -> tuple[str, str]:
        model = self.folder / "artifacts/model"
        return sha256_file(model / "model.safetensors"), sha256_file(model / "final.safetensors")


def project_of(folder: Path, spec: str) -> Project:
    """A project in which everything before training is done; what the corpus is read from lies in the folder."""
    project = Project(folder)
    (folder / "specs").mkdir()
    (folder / "specs/experiment.yaml").write_text(spec)
    for stage in ("corpus", "tokenizer"):
        assert project.run(stage) == (0, "")
    return project


def encoded_project(folder: Path) -> Project:
    """`project_of` a text of made-up sentences."""
    words = "the quick brown fox jumps over lazy dogs while wizards box five jugs".split()  # noqa: SIM905
    draw = random.Random(1)
    (folder / "text.txt").write_text("\n".join(" ".join(draw.choices(words, k=8)) for _ in range(400)))
    return project_of(folder, SPEC)


def copied(encoded: Path, folder: Path) -> Project:
    """A copy of a project."""
    shutil.copytree(encoded, folder)
    return Project(folder)


def trained_in(encoded: Path, folder: Path) -> Project:
    """A copy of a project, trained without interruption."""
    project = copied(encoded, folder)
    assert project.run("train") == (0, "")
    return project


def assert_kills_change_nothing(encoded: Path, folder: Path, trained: Project, *, steps: tuple[int, ...]) -> None:
    """A copy that is killed after a checkpoint of each step, and then trained to its end, is equal to a trained one."""
    project = copied(encoded, folder)
    for step in steps:
        process = project.start("train")
        project.wait_for_checkpoint(process, step=step)
        process.send_signal(signal.SIGKILL)
        process.communicate()

    assert project.run("train") == (0, "")
    assert project.weights() == trained.weights()
    assert project.record() == trained.record()
    assert project.ledger() == trained.ledger()
