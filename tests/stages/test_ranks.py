"""Training in several processes, through the stage as people start it: two ranks on the CPU, the tiniest model."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from pipeline.files import sha256_file
from pipeline.records.experiments import ExperimentDB

pytestmark = pytest.mark.e2e

SPEC = """\
schema_version: 1
name: tiny
dataset: {source: {kind: files, paths: [text.txt]}, split_method: contiguous}
tokenizer: {vocab_size: 300}
model: {d_model: 16, num_layers: 2, num_heads: 2, d_ff: 32, max_seq_len: 16, dropout: DROPOUT}
training: {epochs: EPOCHS, batch_size: ROWS, gradient_accumulation_steps: 2}
hardware: {device: cpu, num_threads: 1, precision: 32-true, compile_mode: null, strategy: STRATEGY, devices: DEVICES}
checkpointing: {save_every_n_steps: 5, save_every_n_epochs: null}
logging: {log_every_n_steps: 1, sample_prompts: ["the"], sample_max_new_tokens: 3}
"""
# Between two ways to add up the same gradients, over all steps of the run (docs/scale.md has the measured figures).
BOUND = 2e-4
ENDLESS = 10_000  # epochs, of a run that is not to end by itself
SECONDS = 240  # more than any of these runs takes on a busy machine


class Project:
    """A folder with a spec and an encoded corpus."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ask(
        self, *, strategy: str = "ddp", devices: int | str = 2, rows: int = 4, dropout: float = 0.0, epochs: int = 2
    ) -> None:
        """Write the spec."""
        values = {"STRATEGY": strategy, "DEVICES": devices, "ROWS": rows, "DROPOUT": dropout, "EPOCHS": epochs}
        text = re.sub(r"[A-Z]{4,}", lambda word: str(values[word[0]]), SPEC)
        (self.folder / "specs/experiment.yaml").write_text(text)

    def start(self, stage: str = "train", *, ranks: int | None = None, **environment: str) -> subprocess.Popen[str]:
        """Start a stage; with `ranks`, by torchrun."""
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks else []
        return subprocess.Popen(
            [sys.executable, *torchrun, "-m", f"pipeline.stages.{stage}"],
            cwd=self.folder,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )

    def finish(self, stage: str = "train", *, ranks: int | None = None) -> str:
        """Run a stage to the end; what it said."""
        process = self.start(stage, ranks=ranks)
        _, said = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, said
        return said

    def wait_for_step(self, process: subprocess.Popen[str], step: int) -> None:
        """Wait until the run has recorded a step."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            if any(f'"step": {step},' in path.read_text() for path in self.folder.glob(".work/runs/*/record.jsonl")):
                return
            time.sleep(0.005)
        process.kill()
        pytest.fail(f"step {step} was not reached: {process.communicate()[1]}")

    def stop_at(self, step: int, *, ranks: int | None = None) -> None:
        """Run the train stage, and ask it to stop after a step."""
        process = self.start(ranks=ranks)
        self.wait_for_step(process, step)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=SECONDS)
        if ranks is None:
            assert process.returncode == 75, said
        assert self.status()["code"] == 75, said

    def status(self) -> dict[str, object]:
        return json.loads((self.folder / ".work/status/train.json").read_text())

    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "artifacts/model/final.safetensors")

    def hashes(self) -> list[str]:
        return [sha256_file(self.folder / f"artifacts/model/{name}.safetensors") for name in ("model", "final")]

    def recorded(self) -> list[str]:
        """How each start of the train stage ended, as the records say, the first one first."""
        with ExperimentDB(self.folder / ".work/experiments.db") as database:
            return [run["status"] for run in reversed(database.list_runs())][2:]  # after corpus and tokenizer

    def metrics(self) -> dict[str, object]:
        return json.loads((self.folder / "reports/training_metrics.json").read_text())


def ranks_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The ranks under a stage or under torchrun, in their order."""
    children = psutil.Process(process.pid).children()
    return sorted(children, key=lambda child: int(child.environ()["RANK"]))


def apart(one: Project, other: Project) -> float:
    """The largest difference between two runs' weights."""
    left, right = one.weights(), other.weights()
    return max((left[name] - right[name]).abs().max().item() for name in left)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory) -> Path:
    """A folder in which everything before training is done."""
    project = Project(tmp_path_factory.mktemp("encoded"))
    (project.folder / "specs").mkdir()
    project.ask()
    words = "the quick brown fox jumps over lazy dogs while wizards box five jugs".split()  # noqa: SIM905
    draw = random.Random(1)
    (project.folder / "text.txt").write_text("\n".join(" ".join(draw.choices(words, k=8)) for _ in range(200)))
    for stage in ("corpus", "tokenizer"):
        project.finish(stage)
    return project.folder


@pytest.fixture
def make(encoded, tmp_path):
    """(settings of the spec) → a project."""
    made = []

    def make(**asked) -> Project:
        folder = tmp_path / f"project-{len(made)}"
        shutil.copytree(encoded, folder)
        made.append(Project(folder))
        made[-1].ask(**asked)
        return made[-1]

    return make


@pytest.fixture(scope="module")
def doubled(encoded, tmp_path_factory) -> Project:
    """A finished run of two ranks that hold the whole model each, with dropout."""
    folder = tmp_path_factory.mktemp("doubled") / "project"
    shutil.copytree(encoded, folder)
    project = Project(folder)
    project.ask(dropout=0.1, epochs=6)
    project.finish()
    return project


def test_two_ranks_train_what_one_process_trains_with_twice_the_rows(make):
    two, one = make(), make(strategy="auto", devices=1, rows=8)

    said = two.finish()
    one.finish()

    assert "2 processes of 1 threads" in said
    assert apart(two, one) <= BOUND
    ours, theirs = two.metrics(), one.metrics()
    assert ours["world"] == {"strategy": "ddp", "processes": 2, "devices": 2}
    assert ours["final_metrics"]["total_tokens"] == theirs["final_metrics"]["total_tokens"]
    for mine, other in zip(ours["epoch_history"], theirs["epoch_history"], strict=True):
        assert mine["train_loss"] == pytest.approx(other["train_loss"], abs=1e-5)
        assert mine["val_loss"] == pytest.approx(other["val_loss"], abs=1e-5)
    assert said.count(": validation loss") == 2  # one rank speaks
    assert two.recorded() == ["completed"]


def test_a_signal_to_one_rank_stops_all_of_them(make):
    project = make(epochs=ENDLESS)
    process = project.start()
    project.wait_for_step(process, 7)
    ranks = ranks_of(process)

    ranks[1].send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=SECONDS)

    assert (process.returncode, project.status()["code"]) == (75, 75), said
    assert not any(rank.is_running() for rank in ranks)
    assert said.count("error: ") == 1
    assert "training was stopped by SIGTERM and its state is saved" in said


def test_a_killed_rank_ends_the_run_with_a_word(make):
    project = make(epochs=ENDLESS)
    process = project.start()
    project.wait_for_step(process, 3)
    ranks = ranks_of(process)

    ranks[1].kill()
    _, said = process.communicate(timeout=SECONDS)

    assert (process.returncode, project.status()["code"]) == (4, 4), said
    assert f"error: rank 1 (process {ranks[1].pid}) was killed by SIGKILL before it could say why" in said
    assert "Traceback" not in said
    assert not any(rank.is_running() for rank in ranks)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_run_whose_rank_was_stopped_or_killed_ends_bit_for_bit_like_one_left_alone(make, doubled, number):
    project = make(dropout=0.1, epochs=6)
    process = project.start()
    project.wait_for_step(process, 12)

    ranks_of(process)[1].send_signal(number)
    process.communicate(timeout=SECONDS)

    assert "resuming after step 1" in project.finish()
    assert project.hashes() == doubled.hashes()
    assert project.metrics()["epoch_history"] == doubled.metrics()["epoch_history"]


@pytest.mark.slow
def test_ranks_die_with_the_stage_above_them(make):
    project = make(epochs=ENDLESS)
    process = project.start()
    project.wait_for_step(process, 3)
    ranks = ranks_of(process)

    process.kill()
    process.communicate(timeout=SECONDS)

    gone, left = psutil.wait_procs(ranks, timeout=10)
    assert (len(gone), left) == (2, [])


@pytest.mark.slow
def test_parts_of_a_model_train_as_whole_models_do(make, doubled):
    project = make(strategy="fsdp", dropout=0.1, epochs=6)

    said = project.finish()

    assert "warning: fsdp without several GPUs saves memory in each process, but no time" in said
    assert project.metrics()["world"] == {"strategy": "fsdp", "processes": 2, "devices": 2}
    assert apart(project, doubled) <= BOUND


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_goes_on_with_fewer_and_with_more_ranks(make, strategy):
    straight, elastic = (make(strategy=strategy, epochs=6) for _ in range(2))
    straight.finish()

    elastic.stop_at(7)
    elastic.stop_at(15, ranks=1)
    said = elastic.finish()

    assert "2 processes go on with what 1 began" in said
    assert apart(elastic, straight) <= BOUND
    assert elastic.metrics()["final_metrics"]["total_tokens"] == straight.metrics()["final_metrics"]["total_tokens"]


@pytest.mark.slow
def test_a_stopped_run_of_parts_ends_bit_for_bit_like_one_that_was_not(make):
    straight, stopped = (make(strategy="fsdp_native", dropout=0.1, epochs=6) for _ in range(2))
    straight.finish()

    stopped.stop_at(6)
    stopped.finish()

    assert stopped.hashes() == straight.hashes()


@pytest.mark.slow
def test_a_rank_that_does_not_answer_ends_the_run_in_time(make):
    project = make(epochs=ENDLESS)
    process = project.start(FOUNDRY_RANK_TIMEOUT="5", TORCH_ELASTIC_SHUTDOWN_TIMEOUT="1")
    project.wait_for_step(process, 5)
    stuck = ranks_of(process)[1]

    stuck.suspend()
    _, said = process.communicate(timeout=SECONDS)

    assert process.returncode == 4, said
    assert said.count("error: ") == 1  # that it was silent, or that the launcher had to kill it
    assert not stuck.is_running()


@pytest.mark.slow
def test_torchrun_starts_what_the_spec_left_open(make):
    left_open, asked = make(strategy="auto", devices="auto"), make()

    said = left_open.finish(ranks=2)
    asked.finish()

    assert left_open.metrics()["world"] == {"strategy": "ddp", "processes": 2, "devices": 2}
    assert left_open.hashes() == asked.hashes()
    assert said.count(": validation loss") == 2
    assert left_open.recorded() == ["completed"]


@pytest.mark.slow
def test_torchrun_passes_a_stop_on_and_the_status_says_so(make):
    project = make()

    project.stop_at(6, ranks=2)

    assert "resuming after step" in project.finish(ranks=2)
    assert project.recorded() == ["interrupted", "completed"]


@pytest.mark.slow
def test_a_second_run_of_the_same_spec_is_refused(make):
    project = make(epochs=ENDLESS)
    first = project.start()
    project.wait_for_step(first, 2)
    for rank in ranks_of(first):
        rank.suspend()

    second = project.start()
    _, said = second.communicate(timeout=SECONDS)
    first.kill()
    first.communicate(timeout=SECONDS)

    assert second.returncode == 4
    assert "is already training this experiment" in said
    assert said.count("error: ") == 1
