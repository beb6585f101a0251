"""A tiny trained-model folder and its export, each made once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from described import model_description, tokenizer_description

from pipeline.data.documents import Document, write_split
from pipeline.data.encode import encode_corpus, metadata, write_metadata
from pipeline.data.tokenizer import Tokenizer, train_tokenizer
from pipeline.export.formats import FORMATS, write_formats
from pipeline.export.health import ExportHealthChecker
from pipeline.files import manifest_hash, output_folder, write_artefact, write_manifest
from pipeline.models.store import save_model
from pipeline.models.transformer import Transformer
from pipeline.paths import SPECS
from pipeline.spec import load_spec

WRITTEN = [name for name, row in FORMATS.items() if row.needs is None]  # tests of the others need an extra
# Those whose health is checked by default: one of each way to open them. A slow test checks them all.
SETTINGS = {
    "formats": ["onnx", "onnx_cache", "pytorch", "bf16"],
    "opset": 18,
    "max_abs_diff": 1e-4,
    "generated_tokens": 8,
}
TINY = {"d_model": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "d_ff": 48, "max_seq_len": 24}


@pytest.fixture(scope="session")
def tokenizer_model() -> bytes:
    text = "the quick brown fox jumps over the lazy dog, and then it sleeps.\n" * 20
    return train_tokenizer([text], tokenizer_type="bpe", vocab_size=64, byte_fallback=False)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Transformer]:
    """A model whose logits are as large as those of a trained one: (**changes of the tiny arguments) → model."""
    return _make_model


def _make_model(**changes: Any) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(**{"vocab_size": 64, **TINY, **changes}).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data *= 4
        else:
            parameter.data += 0.1 * torch.randn_like(parameter)  # biases and norms that matter
    return model


@pytest.fixture(scope="session")
def make_model_folder(tokenizer_model: bytes) -> Callable[..., Path]:
    """What the train stage leaves: (folder, **changes of the Transformer's arguments) → folder."""

    def make(folder: Path, **changes: Any) -> Path:
        tokenizer = Tokenizer(tokenizer_model)
        with output_folder(folder, stage="train", sections={}, inputs={}) as unfinished:
            arguments = {"vocab_size": tokenizer.vocab_size, **TINY, **changes}
            save_model(unfinished, _make_model(**arguments), model_description(arguments))
            (unfinished / "tokenizer.model").write_bytes(tokenizer_model)
            write_artefact(unfinished / "tokenizer.json", "tokenizer", tokenizer_description(tokenizer.vocab_size))
            spec = load_spec(SPECS / "experiment.yaml").to_dict()
            write_artefact(unfinished / "spec.json", "spec", spec)
        return folder

    return make


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, make_model_folder: Callable[..., Path]) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="session")
def export_folder(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """An export in all formats. Tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("export") / "export"
    inputs = {"model": manifest_hash(model_folder)}
    with output_folder(folder, stage="export", sections={"export": SETTINGS}, inputs=inputs) as unfinished:
        write_formats(model_folder, unfinished, formats=WRITTEN, opset=18, quantization="dynamic")
    return folder


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_model: bytes) -> Path:
    """What the tokenizer stage leaves of a corpus that has a validation split."""
    root = tmp_path_factory.mktemp("data")
    texts = {
        "train": ["the fox"],
        "validation": ["the lazy dog sleeps, and the quick brown fox jumps.\n" * 8],
        "test": [],
    }
    (root / "corpus").mkdir()
    for split, documents in texts.items():
        rows = (Document(str(number), text) for number, text in enumerate(documents))
        write_split(root / f"corpus/{split}.jsonl", rows)
    with output_folder(root / "tokenizer", stage="tokenizer", sections={}, inputs={}) as folder:
        (folder / "tokenizer.model").write_bytes(tokenizer_model)
        counts = encode_corpus(Tokenizer(tokenizer_model), root / "corpus", folder)
        settings = {"tokenizer_type": "bpe", "special_tokens": []}
        write_metadata(folder, metadata(Tokenizer(tokenizer_model), counts, settings=settings))
    return root / "tokenizer"


@pytest.fixture(scope="session")
def health(export_folder: Path, model_folder: Path, data_folder: Path) -> dict[str, Any]:
    """The report of the untouched export. Tests read it only."""
    return ExportHealthChecker(model_folder, data=data_folder).run_all_checks(export_folder).to_dict()


@pytest.fixture
def resign() -> Callable[..., None]:
    """Give a changed export folder a manifest that fits, as an attacker or a bug would: (folder, **settings)."""

    def write(folder: Path, **settings: Any) -> None:
        old = json.loads((folder / "manifest.json").read_text())
        sections = {"export": {**old["sections"].get("export", {}), **settings}}
        write_manifest(folder, stage="export", sections=sections, inputs=old["inputs"])

    return write
