"""The model folder: what is written is what is read, and damage is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from described import model_description

from pipeline.errors import ArtifactError
from pipeline.files import output_folder, read_json, write_json, write_manifest
from pipeline.models.store import load_model, read_model, save_model
from pipeline.models.transformer import Transformer

pytestmark = pytest.mark.unit

ARGUMENTS: dict[str, Any] = {
    "vocab_size": 40,
    "d_model": 16,
    "num_layers": 1,
    "num_heads": 2,
    "d_ff": 32,
    "max_seq_len": 12,
}


@pytest.fixture(params=["llama", "gpt"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    torch.manual_seed(0)
    model = Transformer(**ARGUMENTS, model_type=request.param)
    with output_folder(tmp_path / "model", stage="train", sections={}, inputs={}) as unfinished:
        save_model(unfinished, model, model_description({**ARGUMENTS, "model_type": request.param}))
        torch.save(model(torch.arange(10)[None]).detach(), tmp_path / "logits.pt")
    return tmp_path / "model"


def test_a_loaded_model_computes_bit_for_bit_what_the_saved_one_did(folder: Path) -> None:
    model, description = load_model(folder)

    assert not model.training
    assert description["model"]["d_model"] == 16
    assert torch.equal(model(torch.arange(10)[None]), torch.load(folder.parent / "logits.pt", weights_only=True))


def test_loading_draws_no_random_numbers_and_does_not_import_the_compiler(folder: Path) -> None:
    code = (
        "import sys, torch; from pathlib import Path; from pipeline.models.store import load_model;"
        "before = torch.get_rng_state(); load_model(Path(sys.argv[1]));"
        "print(torch.equal(torch.get_rng_state(), before), 'torch._dynamo' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["True", "False"]


def test_a_flipped_byte_in_any_file_is_refused_by_name(folder: Path) -> None:
    for path in list(folder.iterdir()):
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[len(damaged) // 2] ^= 1
        path.write_bytes(damaged)

        with pytest.raises(ArtifactError) as caught:
            load_model(folder)
        assert path.name in str(caught.value) or path.name == "manifest.json"
        assert "foundry run --from train" in caught.value.hint

        path.write_bytes(whole)
    load_model(folder)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    description = read_json(folder / "model.json")
    description["model"]["d_ff"] = 48
    write_json(folder / "model.json", description)
    write_manifest(folder, stage="train", sections={}, inputs={})

    with pytest.raises(ArtifactError, match="do not fit"):
        load_model(folder)


def test_a_description_of_a_later_format_is_refused(folder: Path) -> None:
    write_json(folder / "model.json", {**read_json(folder / "model.json"), "format_version": 99})

    with pytest.raises(ArtifactError, match="99"):
        read_model(folder)
