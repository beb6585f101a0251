"""Classification of texts through all five stages, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]  # five stages in five processes

SPEC = """\
schema_version: 1
name: moods
dataset: {source: {kind: files, paths: [texts]}, label_from_folder: true, passage_characters: 40}
tokenizer: {vocab_size: 300}
task: {task_type: text_classification}
model: {d_model: 16, num_layers: 1, num_heads: 2, d_ff: 32, max_seq_len: 32}
training: {epochs: 6, batch_size: 8, learning_rate: 0.01}
hardware: {num_threads: 1, precision: 32-true, compile_mode: null}
logging: {sample_prompts: ["a happy song"]}
validation: {prompts: ["a happy song"], budgets: {rss_mb: null, peak_mb: null, latency_p95_ms: null}}
export: {formats: [onnx, pytorch]}
"""
WORDS = {"glad": "happy merry bright song dance laugh", "sad": "grief tears dark tomb weep sorrow"}


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = (sys.executable, "-m", *command)
    return subprocess.run(whole, cwd=folder, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moods")
    (folder / "specs").mkdir()
    (folder / "specs/experiment.yaml").write_text(SPEC)
    for mood, words in WORDS.items():
        (folder / "texts" / mood).mkdir(parents=True)
        each = words.split()
        turns = [(row, step) for row in range(6) for step in range(1, 6)]
        lines = [" ".join(each[(row + place * step) % 6] for place in range(7)) for row, step in turns]
        (folder / "texts" / mood / "poem.txt").write_text("\n\n".join(lines))
    for stage in ("corpus", "tokenizer", "train", "validate", "export"):
        done = run(folder, f"pipeline.stages.{stage}")
        assert done.returncode == 0, done.stderr
    return folder


def test_the_classes_of_the_folders_are_learned_and_judged_beside_the_majority(project: Path) -> None:
    report = json.loads((project / "reports/validation.json").read_text())

    assert report["metrics"]["accuracy"] > 0.9 > report["baselines"]["majority_accuracy"]
    assert report["samples"][0]["text"].startswith("glad (")
    assert json.loads((project / "artifacts/model/tokenizer.json").read_text())["classes"] == ["glad", "sad"]


def test_the_plan_of_an_encoded_corpus_has_the_parameters_of_the_model_and_the_steps_of_the_run(project: Path) -> None:
    planned = json.loads(run(project, "pipeline", "plan", "--no-calibrate", "--json").stdout)
    training = json.loads((project / "reports/training_metrics.json").read_text())
    report = json.loads((project / "reports/validation.json").read_text())

    assert planned["model"]["parameters"]["total"] == report["model"]["parameters"]
    assert planned["training"]["steps"] == training["final_metrics"]["total_steps"]
    assert report["budgets"][0]["unit"] == "nats per text"


def test_every_format_gives_the_logits_of_the_model(project: Path) -> None:
    report = json.loads((project / "reports/health_report.json").read_text())
    checks = {check["check_name"]: check["status"] for check in report["checks"]}

    assert report["all_passed"]
    assert checks["onnx_numerical_consistency"] == checks["pytorch_numerical_consistency"] == "passed"
    assert not [name for name in checks if "generation" in name]


def test_a_text_is_classified_and_never_continued(project: Path) -> None:
    said = run(project, "pipeline", "classify", "grief tears dark tomb weep sorrow")
    refused = run(project, "pipeline", "generate", "grief tears dark tomb weep sorrow")

    assert said.stdout.splitlines()[0].endswith("  sad")
    assert refused.returncode == 1
    assert "does not write text: it was trained for text_classification" in refused.stderr
