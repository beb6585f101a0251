"""The weights that a run starts from: read whole, refused where they do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from described import model_description
from safetensors.torch import load_file
from training_bench import Bench

from pipeline.errors import TrainingError
from pipeline.files import output_folder, read_json, write_json, write_manifest
from pipeline.models.store import save_model
from pipeline.models.transformer import Transformer
from pipeline.training.run_folder import checkpoints_in
from pipeline.training.warm_start import Start, read_start, remembered_starts, start_from

pytestmark = pytest.mark.unit
# The shape of the bench's model.
SHAPE: dict[str, Any] = {
    "vocab_size": 40,
    "d_model": 16,
    "num_layers": 2,
    "num_heads": 2,
    "d_ff": 32,
    "max_seq_len": 8,
    "model_type": "llama",
}


def model_folder(folder: Path, **changes: Any) -> Path:
    torch.manual_seed(3)
    shape = {**SHAPE, **changes}
    with output_folder(folder, stage="train", sections={}, inputs={}) as unfinished:
        save_model(unfinished, Transformer(**shape), model_description(shape))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    Bench(folder, max_steps=3, precision="bf16-true").start()
    return checkpoints_in(folder)[3]


def started(folder: Path, tokenizer: str | None = None, **changes: Any) -> Transformer:
    shape = {**SHAPE, **changes}
    model = Transformer(**shape)
    start_from(read_start(str(folder)), model, arguments=shape, tokenizer=tokenizer)
    return model


@pytest.mark.parametrize("kind", ["model folder", "checkpoint"])
def test_a_model_gets_the_weights_of_a_folder_and_draws_nothing(tmp_path: Path, checkpoint: Path, kind: str) -> None:
    folder = checkpoint if kind == "checkpoint" else model_folder(tmp_path / "model")
    model = Transformer(**SHAPE)
    before = torch.get_rng_state()

    start_from(read_start(str(folder)), model, arguments=SHAPE, tokenizer=None)

    weights = load_file(folder / "model.safetensors")
    assert all(tensor.equal(weights[name].float()) for name, tensor in model.state_dict().items())
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert torch.get_rng_state().equal(before)


def test_what_only_training_looks_at_may_differ(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")

    model = started(
        folder,
        dropout=0.3,
        attention_dropout=0.1,
        max_seq_len=32,
        init_std=0.1,
        zero_init=True,
        separate_documents=True,
    )

    assert model.max_seq_len == 32


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"d_ff": 48}, r"d_ff is 48, theirs is 32; layers.0.mlp.down_proj.weight is \(16, 48\), theirs is \(16, 32\)"),
        ({"num_layers": 3}, "num_layers is 3, theirs is 2; layers.2.input_layernorm.weight is missing"),
        ({"num_layers": 1}, "layers.1.input_layernorm.weight is not part of the model"),
        ({"d_model": 32}, "; layers.0.mlp.gate_proj.weight is .* and 16 more$"),
        ({"num_heads": 4}, "num_heads is 4, theirs is 2$"),  # no tensor tells
        ({"short_conv": 4}, "experiment: layers.0.mlp_conv.weight is missing; layers.1"),
        ({"rope_theta": 5e5}, "rope_theta is 500000.0, theirs is 10000.0$"),
        ({"tokenizer": 64 * "0"}, "the text is encoded with another tokenizer than theirs$"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_what_differs(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    folder = model_folder(tmp_path / "model", rope_theta=10000.0)

    with pytest.raises(TrainingError, match=words) as caught:
        started(folder, **changes)

    assert caught.value.where == str(folder)
    assert "set training.resume_from_checkpoint to null" in caught.value.hint


def test_a_checkpoint_of_another_tokenizer_is_refused(checkpoint: Path) -> None:
    with pytest.raises(TrainingError, match="another tokenizer"):
        started(checkpoint, tokenizer=64 * "0")


def test_every_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    for path in list(folder.iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole[:-9])

        with pytest.raises(TrainingError, match=path.name):
            read_start(str(folder))

        path.write_bytes(whole)
    assert read_start(str(folder)).path == str(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"nowhere: the folder does not exist") as caught:
        read_start(str(tmp_path / "nowhere"))

    assert "set training.resume_from_checkpoint to another or null" in caught.value.hint


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    write_manifest(tmp_path, stage="tokenizer", sections={}, inputs={})

    with pytest.raises(TrainingError, match="neither a model folder nor a checkpoint"):
        read_start(str(tmp_path))


def test_runs_remember_what_they_started_from(tmp_path: Path, checkpoint: Path) -> None:
    state = read_json(checkpoint / "state.json")
    for name, start in {"a": {"path": "here", "sha256": 64 * "1"}, "b": {"path": "there", "sha256": 64 * "2"}}.items():
        folder = tmp_path / name / "checkpoint-00000003"
        folder.mkdir(parents=True)
        write_json(folder / "state.json", {**state, "start": start})
    (tmp_path / "random/checkpoint-00000003").mkdir(parents=True)
    write_json(tmp_path / "random/checkpoint-00000003/state.json", state)
    (tmp_path / "damaged/checkpoint-00000003").mkdir(parents=True)
    (tmp_path / "damaged/checkpoint-00000003/state.json").write_text("{")

    assert list(remembered_starts(tmp_path, "here")) == [("a", Start("here", 64 * "1"))]
