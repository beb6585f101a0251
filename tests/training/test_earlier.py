"""A run that starts afresh beside checkpoints of an earlier one says what differs."""

from __future__ import annotations

import json
import os

import pytest
import torch
from training_bench import Bench

from pipeline.files import write_artefact
from pipeline.models.table import arguments_of
from pipeline.models.transformer import Transformer
from pipeline.spec import parse_spec
from pipeline.spec.difference import ARCHITECTURE, IMPOSSIBLE, RESULT, SAFE, classify_change
from pipeline.training.earlier import why_afresh
from pipeline.training.warm_start import Start

pytestmark = pytest.mark.unit
HEAD = "schema_version: 1\nname: x\ndataset: {source: {kind: files, paths: [corpus]}}\n"


def spec_of(text="", head=HEAD):
    return parse_spec((head + text).encode(), "x.yaml")


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """What a real checkpoint says about itself."""
    folder = tmp_path_factory.mktemp("run")
    Bench(folder, max_steps=3).start()
    return json.loads(next(folder.glob("checkpoint-*/state.json")).read_text())


@pytest.fixture
def leave(tmp_path, state):
    """Leaves a checkpoint of a spec behind, as an interrupted run does."""

    def leave(spec, name="earlier", *, age=0, **more):
        folder = tmp_path / name / "checkpoint-00000003"
        folder.mkdir(parents=True)
        write_artefact(folder / "state.json", "checkpoint_state", {**state, "spec": spec.to_dict(), **more})
        os.utime(folder / "state.json", (1e9 - age, 1e9 - age))

    return leave


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("training: {learning_rate: 2e-3}", "training.learning_rate 0.001 → 0.002 changes the result"),
        (
            "training: {epochs: 5, batch_size: 8}",
            "training.batch_size 32 → 8, training.epochs 4 → 5 change the result",
        ),
        ("model: {num_layers: 5}", "model.num_layers 4 → 5 makes another vocabulary or architecture"),
        ("export: {opset: 19}", "the code or the data is not that of the earlier run"),
        (
            "optimizer: {weight_decay: 0, adam_beta1: 0.8}\ntraining: {epochs: 5, batch_size: 8}",
            "training.batch_size 32 → 8, training.epochs 4 → 5, optimizer.adam_beta1 0.9 → 0.8 and 1 more change the",
        ),
    ],
)
def test_the_settings_that_keep_a_run_from_going_on_are_named(tmp_path, leave, text, reason):
    leave(spec_of())

    said = why_afresh(spec_of(text), tmp_path / "now", None)

    assert said.startswith(f"starting afresh: {reason}")
    assert said.endswith(f"; the earlier run stays under {tmp_path / 'earlier'}")


def test_the_newest_run_of_the_same_experiment_is_compared(tmp_path, leave):
    leave(spec_of("training: {epochs: 7}"), "older", age=60)
    leave(spec_of("training: {epochs: 8}"), "newer", age=30)
    leave(spec_of(head=HEAD.replace("name: x", "name: y")), "of another experiment")
    leave(spec_of("training: {epochs: 9}"), "now")

    assert "training.epochs 8 → 4 changes the result" in why_afresh(spec_of(), tmp_path / "now", None)


def test_other_weights_in_the_folder_that_it_starts_from_are_named(tmp_path, leave):
    spec = spec_of("training: {resume_from_checkpoint: there}")
    leave(spec, start={"path": "there", "sha256": 64 * "1"})

    said = why_afresh(spec, tmp_path / "now", Start("there", 64 * "2"))

    assert said.startswith("starting afresh: the weights in there are not those that the earlier run began with; ")


def test_a_first_run_has_nothing_to_explain(tmp_path):
    assert not why_afresh(spec_of(), tmp_path / "now", None)


@pytest.mark.parametrize("text", ["", "{}", "[", '{"spec": 3}'])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, leave, text):
    leave(spec_of())
    next(tmp_path.glob("earlier/*/state.json")).write_text(text)

    assert not why_afresh(spec_of("training: {epochs: 9}"), tmp_path / "now", None)


def test_a_change_is_safe_or_changes_the_result_or_is_impossible():
    tuned = "training: {epochs: 9}\n"

    assert classify_change(spec_of(), spec_of("logging: {console_level: warning}")).verdict == SAFE
    assert classify_change(spec_of(), spec_of(tuned)).paths == ("training.epochs",)
    assert classify_change(spec_of(), spec_of(tuned)).verdict == RESULT
    for text in ("tokenizer: {vocab_size: 500}", "model: {d_model: 96}", "model: {model_type: gpt}"):
        change = classify_change(spec_of(), spec_of(tuned + text))
        assert (change.verdict, len(change.paths)) == (IMPOSSIBLE, 1)


def test_every_setting_that_changes_the_shape_of_a_weight_is_called_architecture():
    usual = arguments_of(spec_of("model: {num_heads: 4, d_model: 64}").section("model"), {})
    others = {"model_type": "gpt", "num_kv_heads": 2, "tie_embeddings": False, "dropout": 0.5, "norm_epsilon": 0.1}
    others |= {
        "attention_dropout": 0.5,
        "qk_norm": True,
        "activation": "relu2",
        "zero_init": True,
        "short_conv": 4,
        "separate_documents": True,
    }

    def shapes(**changes):
        with torch.device("meta"):
            model = Transformer(vocab_size=300, **{**usual, **changes})
        return {name: tensor.shape for name, tensor in model.state_dict().items()}

    for kind in ("llama", "gpt"):
        for name, value in usual.items():
            other = others.get(name) or 2 * value
            if shapes(model_type=kind) != shapes(**{"model_type": kind, name: other}):
                assert f"model.{name}" in ARCHITECTURE
