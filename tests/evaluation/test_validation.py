"""Validation of a real, tiny model: figures against independent computations, and everything it must refuse."""

from __future__ import annotations

import json
import math
import shutil

import jsonschema
import numpy as np
import pytest
import torch

from pipeline import paths
from pipeline.data.encoded import map_array
from pipeline.errors import ArtifactError, ValidationError
from pipeline.evaluation.budgets import BUDGETS
from pipeline.evaluation.validation import require_same_tokenizer, validate_model
from pipeline.export import probe
from pipeline.export.measured import measure_inference
from pipeline.files import read_json, sha256_file, write_manifest
from pipeline.memory import memory_bytes
from pipeline.models.store import load_model
from pipeline.tasks.language_model import LanguageModel

pytestmark = pytest.mark.integration

SETTINGS = {
    "split": "validation",
    "prompts": ["the quick", "café"],
    "max_new_tokens": 12,
    "temperature": 0.7,
    "generation_seed": 42,
    "budgets": {**dict.fromkeys(BUDGETS, 1e6), "model_mb": None},
    "measure": measure_inference,
}


@pytest.fixture(scope="module")
def validation(trained):
    return validate_model(model_folder=trained.model, tokenizer_folder=trained.tokenizer, **SETTINGS)


@pytest.fixture
def copied(trained, tmp_path):
    """Folders that a test may damage."""
    return type(trained)(
        shutil.copytree(trained.model, tmp_path / "model"), shutil.copytree(trained.tokenizer, tmp_path / "tokenizer")
    )


def _validate(folders, **changes):
    return validate_model(model_folder=folders.model, tokenizer_folder=folders.tokenizer, **{**SETTINGS, **changes})


def test_the_report_keeps_its_schema(validation):
    schema = json.loads((paths.SCHEMAS / "v1" / "artefact" / "validation_report.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)

    jsonschema.Draft202012Validator(schema).validate(json.loads(json.dumps(validation.report, allow_nan=False)))


def test_the_loss_is_that_of_scoring_each_token_by_hand(validation, trained):
    model, _ = load_model(trained.model)
    tokens = np.fromfile(trained.tokenizer / "validation.bin", dtype="<u2").astype(np.int64)
    nats = 0.0
    for start in range(0, len(tokens) - 1, model.max_seq_len):
        stop = min(start + model.max_seq_len, len(tokens) - 1)
        with torch.inference_mode():
            logits = model(torch.from_numpy(tokens[None, start:stop])).double().log_softmax(-1)[0]
        nats -= sum(float(logits[i, token]) for i, token in enumerate(tokens[start + 1 : stop + 1]))

    metrics = validation.report["metrics"]

    text_bytes = read_json(trained.tokenizer / "tokenizer.json")["splits"]["validation"]["bytes"]
    assert metrics["val_loss"] == pytest.approx(nats / (len(tokens) - 1), abs=1e-5)
    assert metrics["perplexity"] == pytest.approx(math.exp(nats / (len(tokens) - 1)), rel=1e-4)
    assert metrics["bits_per_byte"] == pytest.approx(nats / math.log(2) / text_bytes, abs=1e-5)
    assert validation.report["scored"] == {"documents": 2, "tokens": len(tokens) - 1, "bytes": text_bytes}


def test_budgets_hold_what_was_measured(validation, trained):
    report = validation.report
    budgets = {budget["name"]: budget for budget in report["budgets"]}

    assert budgets["val_loss"]["value"] == pytest.approx(report["metrics"]["val_loss"], abs=1e-6)
    assert budgets["rss_mb"]["value"] == report["inference"]["rss_mb"]
    assert budgets["training_minutes"]["value"] == 1.5
    assert budgets["model_mb"]["value"] == (trained.model / "model.safetensors").stat().st_size / 1e6
    assert budgets["model_mb"]["status"] == "not_judged"
    assert report["status"] == "pass"


def test_inference_is_measured_over_at_least_50_tokens(validation):
    inference, latencies = validation.report["inference"], validation.latencies_ms

    assert inference["measured_tokens"] == len(latencies) == probe.MEASURED_ANSWERS >= 50
    assert sum(round(latency, 3) <= inference["latency_p95_ms"] for latency in latencies) >= 0.95 * len(latencies)
    assert 0 < inference["latency_p50_ms"] <= inference["latency_p95_ms"]
    assert 20 < inference["rss_mb"] <= inference["peak_mb"]


def test_samples_continue_their_prompts_and_are_the_same_each_time(validation, trained):
    samples = validation.report["samples"]
    model, description = load_model(trained.model)
    task = LanguageModel.open(trained.model, description["model"])

    again = task.samples(model, SETTINGS["prompts"], max_new_tokens=12, temperature=0.7, seed=42)

    assert [(one.prompt, one.shown, one.new_tokens) for one in again] == [tuple(one.values()) for one in samples]
    assert [one["text"].startswith(one["prompt"]) for one in samples] == [True, True]
    assert all(1 <= one["new_tokens"] <= 12 for one in samples)


def test_both_baselines_stand_beside_the_model(validation):
    baselines = validation.report["baselines"]

    assert set(baselines) == {"unigram", "trigram"}
    assert 0 < baselines["trigram"] < baselines["unigram"]


def test_the_report_says_which_weights_were_judged(validation, trained):
    assert validation.report["model"]["weights_sha256"] == sha256_file(trained.model / "model.safetensors")


def test_an_empty_split_is_refused_with_the_setting_to_change(trained):
    with pytest.raises(ValidationError, match="the test split is empty") as caught:
        _validate(trained, split="test")

    assert "dataset.test_split" in caught.value.hint


@pytest.mark.parametrize(
    ("folder", "file", "stage"),
    [("model", "model.safetensors", "train"), ("tokenizer", "validation.bin", "tokenizer")],
)
def test_a_flipped_byte_is_refused_with_the_file_and_the_command_that_rebuilds_it(copied, folder, file, stage):
    path = getattr(copied, folder) / file
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    with pytest.raises(ArtifactError) as caught:
        _validate(copied)

    assert caught.value.where == str(path)
    assert f"foundry run --from {stage} --force" in caught.value.hint


def test_a_model_of_another_tokenizer_is_refused(copied):
    path = copied.tokenizer / "tokenizer.model"
    path.write_bytes(path.read_bytes() + b"\0")
    write_manifest(copied.tokenizer, stage="tokenizer", sections={}, inputs={})

    with pytest.raises(ArtifactError, match="another tokenizer"):
        require_same_tokenizer(copied.model, copied.tokenizer)


def test_tokens_are_read_as_they_were_written(tmp_path):
    np.array([1, 70_000, 2], dtype="<u4").tofile(tmp_path / "validation.bin")

    assert map_array(tmp_path / "validation.bin", "uint32").tolist() == [1, 70_000, 2]


def test_memory_of_this_process_is_at_most_its_peak():
    now, peak = memory_bytes()

    assert 10_000_000 < now <= peak
