"""Tiny model folders as the train stage leaves them, and exports of them, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from described import model_description, tokenizer_description

from pipeline.data.tokenizer import Tokenizer, train_tokenizer
from pipeline.files import manifest_hash, output_folder, write_artefact
from pipeline.models.store import load_model, save_model
from pipeline.models.transformer import Transformer
from pipeline.paths import SPECS
from pipeline.spec import parse_spec

TINY = {"d_model": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "d_ff": 24, "max_seq_len": 24}
_TEXT = "the quick brown fox jumps over the lazy dog, and then it sleeps.\n" * 20


def model_folder(
    folder: Path,
    *,
    seed: int = 0,
    changes: dict[str, Any] | None = None,
    start: str | None = None,
    text: str = _TEXT,
    name: str = "tiny",
    val_loss: float | None = 3.0,
) -> Path:
    """A trained model.

    Args:
        folder: where to.
        seed: of its weights.
        changes: of the shipped spec: dotted setting → value.
        start: SHA-256 of the weights that it began with.
        text: that its tokenizer was trained on.
        name: `model.model_name`.
        val_loss: what training found.
    """
    settings = spec_of(changes or {}, name)
    tokenizer_model = train_tokenizer([text], tokenizer_type="bpe", vocab_size=64, byte_fallback=False)
    tokenizer = Tokenizer(tokenizer_model)
    arguments = {"vocab_size": tokenizer.vocab_size, **TINY}
    torch.manual_seed(seed)
    description = model_description(arguments)
    described = {**description, "model_name": name, "training": {**description["training"], "val_loss": val_loss}}
    inputs = {} if start is None else {"start": start}
    with output_folder(folder, stage="train", sections={}, inputs=inputs) as unfinished:
        save_model(unfinished, Transformer(**arguments), described)
        (unfinished / "tokenizer.model").write_bytes(tokenizer_model)
        write_artefact(unfinished / "tokenizer.json", "tokenizer", tokenizer_description(tokenizer.vocab_size))
        write_artefact(unfinished / "spec.json", "spec", settings)
    return folder


def spec_of(changes: dict[str, Any], name: str = "tiny") -> dict[str, Any]:
    """The shipped spec with other values, complete."""
    shipped = (SPECS / "experiment.yaml").read_bytes()
    settings = parse_spec(shipped, "experiment.yaml").to_dict()
    settings["model"]["model_name"] = name
    for path, value in changes.items():
        *sections, key = path.split(".")
        place = settings
        for section in sections:
            place = place[section]
        place[key] = value
    return settings


def export_folder(folder: Path, model: Path, *, formats: tuple[str, ...] = ("pytorch",)) -> Path:
    """An export of a model, with the model itself in it."""
    inputs = {"model": manifest_hash(model)}
    with output_folder(
        folder, stage="export", sections={"export": {"formats": [*formats]}}, inputs=inputs
    ) as unfinished:
        inside = unfinished / "pytorch"
        with output_folder(inside, stage="export", sections={}, inputs=inputs) as copied:
            trained, description = load_model(model)
            save_model(copied, trained, {key: description[key] for key in description if key != "format_version"})
            for name in ("tokenizer.model", "tokenizer.json", "spec.json"):
                (copied / name).write_bytes((model / name).read_bytes())
    return folder


def flip(path: Path, at: int = -1) -> None:
    """Turn one bit of a file over."""
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)
