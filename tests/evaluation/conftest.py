"""A tiny model with its tokenizer and encoded splits, as the tokenizer and train stages leave them, made once."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from described import model_description

from pipeline.data.documents import Document, write_split
from pipeline.data.encode import encode_corpus, metadata, write_metadata
from pipeline.data.tokenizer import Tokenizer, train_tokenizer
from pipeline.files import output_folder, write_artefact
from pipeline.models.store import save_model
from pipeline.models.transformer import Transformer
from pipeline.paths import SPECS
from pipeline.spec import load_spec

SENTENCES = ("the quick brown fox", "jumps over", "the lazy dog", "and then it sleeps,", "café au lait.\n")
TEXTS = {
    "train": [" ".join(SENTENCES[i % 5 :]) * 4 for i in range(20)],
    "validation": [" ".join(SENTENCES), " ".join(SENTENCES[::-1])],
    "test": [],
}


class Trained(NamedTuple):
    model: Path
    tokenizer: Path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The two folders. Tests that change one copy it first."""
    root = tmp_path_factory.mktemp("trained")
    data = train_tokenizer(TEXTS["train"], tokenizer_type="bpe", vocab_size=340)
    tokenizer = Tokenizer(data)
    corpus = root / "corpus"
    corpus.mkdir()
    for split, texts in TEXTS.items():
        write_split(corpus / f"{split}.jsonl", (Document(f"{split}-{i}", text) for i, text in enumerate(texts)))
    with output_folder(root / "tokenizer", stage="tokenizer", sections={}, inputs={}) as folder:
        (folder / "tokenizer.model").write_bytes(data)
        counts = encode_corpus(tokenizer, corpus, folder)
        settings = {"tokenizer_type": "bpe", "special_tokens": []}
        write_metadata(folder, metadata(tokenizer, counts, settings=settings))
    arguments = {"vocab_size": 340, "d_model": 32, "num_layers": 2, "num_heads": 2, "d_ff": 48, "max_seq_len": 16}
    torch.manual_seed(0)
    with output_folder(root / "model", stage="train", sections={}, inputs={}) as folder:
        save_model(folder, Transformer(**arguments), model_description(arguments, seconds=90.0))
        write_artefact(folder / "spec.json", "spec", load_spec(SPECS / "experiment.yaml").to_dict())
        for name in ("tokenizer.model", "tokenizer.json"):
            (folder / name).write_bytes((root / "tokenizer" / name).read_bytes())
    return Trained(root / "model", root / "tokenizer")
