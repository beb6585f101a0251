"""Hidden tokens through all five stages, each in a process of its own; a killed run ends like one left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from train_project import Project, assert_kills_change_nothing, project_of, trained_in

pytestmark = pytest.mark.e2e

SPEC = """\
schema_version: 1
name: tiny-masks
dataset: {source: {kind: files, paths: [texts]}, split_method: contiguous}
tokenizer: {tokenizer_type: bpe, vocab_size: 300, special_tokens: ["<mask>"]}
task: {task_type: masked_lm}
model: {model_type: bert, d_model: 16, num_layers: 1, num_heads: 2, d_ff: 32, max_seq_len: 32, dropout: 0.1}
training: {epochs: 4, batch_size: 2, gradient_accumulation_steps: 2, learning_rate: 0.005}
hardware: {num_threads: 1, precision: 32-true, compile_mode: null}
checkpointing: {save_every_n_steps: 3}
logging: {sample_prompts: ["the sun <mask>"]}
validation: {prompts: ["the sun <mask>"], budgets: {rss_mb: null, peak_mb: null, latency_p95_ms: null}}
export: {formats: [onnx, torchscript, pytorch]}
"""
SUBJECTS, VERBS, PLACES = ("sun", "moon", "wind", "rain"), ("shines", "rests", "wanders"), ("hill", "sea", "town")


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything before training is done."""
    folder = tmp_path_factory.mktemp("encoded")
    lines = [f"the {who} {does} over the {place}" for who in SUBJECTS for does in VERBS for place in PLACES]
    (folder / "texts").mkdir()
    (folder / "texts/a.txt").write_text("\n".join(4 * lines))
    return project_of(folder, SPEC).folder


@pytest.fixture(scope="module")
def trained(encoded: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return trained_in(encoded, tmp_path_factory.mktemp("trained") / "project")


def test_a_killed_run_ends_bit_for_bit_like_one_that_was_left_alone(
    trained: Project, encoded: Path, tmp_path: Path
) -> None:
    assert_kills_change_nothing(encoded, tmp_path / "killed", trained, steps=(3, 21))


@pytest.mark.slow
def test_a_model_is_judged_beside_frequencies_and_exported_and_neither_classifies_nor_writes(trained: Project) -> None:
    for stage in ("validate", "export"):
        code, said = trained.run(stage)
        assert code == 0, said
    report = json.loads((trained.folder / "reports/validation.json").read_text())
    health = json.loads((trained.folder / "reports/health_report.json").read_text())

    assert report["metrics"]["val_loss"] < report["baselines"]["unigram_loss"]
    assert report["metrics"]["accuracy"] > report["baselines"]["unigram_accuracy"]
    assert report["samples"][0]["new_tokens"] == 1
    assert health["all_passed"]
    assert not [check["check_name"] for check in health["checks"] if "generation" in check["check_name"]]
    for verb, reason in (("classify", "has no classes"), ("generate", "does not write text")):
        command = [sys.executable, "-m", "pipeline", verb, "the sun <mask>"]
        done = subprocess.run(command, cwd=trained.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert f"{reason}: it was trained for masked_lm" in done.stderr
