"""Classification of texts: what a batch holds, what the pooling reads, what the metrics mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.document_batches import DocumentBatches, LabelledTexts
from pipeline.data.documents import Document, write_split
from pipeline.data.encode import contents_of, encode_corpus, metadata, write_metadata
from pipeline.data.encoded import EncodedSplit, read_encoded
from pipeline.data.tokenizer import Tokenizer, train_tokenizer
from pipeline.errors import TokenizerError
from pipeline.models.text_classifier import Pooling, TextClassifier
from pipeline.tasks.classify import TextClassification
from pipeline.training.precision import PRECISIONS, arithmetic, convert_weights

pytestmark = pytest.mark.unit
SHAPE = {"vocab_size": 300, "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 32, "max_seq_len": 12}
DOCUMENTS = {
    "train": [("a stormy sea", "weather"), ("the sea is calm", "weather"), ("a crown of gold", "kings")] * 3,
    "validation": [("the king has a crown", "kings"), ("a calm sea", "weather")],
    "test": [],
}


def encode(folder: Path, documents: dict[str, list[tuple[str, str]]]) -> Path:
    for split, texts in documents.items():
        rows = (Document(f"{split}-{number}", text, label=label) for number, (text, label) in enumerate(texts))
        write_split(folder / f"{split}.jsonl", rows)
    data = train_tokenizer([text for text, _ in documents["train"]], tokenizer_type="bpe", vocab_size=290)
    (folder / "tokenizer.model").write_bytes(data)
    tokenizer, contents = Tokenizer(data), contents_of(folder / "train.jsonl")
    counts = encode_corpus(tokenizer, folder, folder, contents)
    settings = {"tokenizer_type": "bpe", "special_tokens": []}
    write_metadata(folder, metadata(tokenizer, counts, settings=settings, contents=contents))
    return folder


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("labelled"), DOCUMENTS)


@pytest.fixture
def train_split(encoded: Path) -> EncodedSplit:
    return read_encoded(encoded, "train")


def make(pooling: Pooling = "mean") -> TextClassifier:
    torch.manual_seed(0)
    return TextClassifier(num_classes=2, pad_id=3, pooling=pooling, **SHAPE).eval()


def test_classes_are_numbered_in_the_order_of_their_names(train_split: EncodedSplit) -> None:
    assert train_split.metadata["classes"] == ["kings", "weather"]
    assert train_split.arrays["labels"].tolist() == [1, 1, 0] * 3


def test_an_epoch_holds_each_document_once_whatever_the_batch_size(train_split: EncodedSplit) -> None:
    rows = LabelledTexts(train_split, length=12, pad_id=3)
    for size in (1, 4, 9, 20):
        batches = DocumentBatches(rows, batch_size=size, seed=1)
        labels = torch.cat([batches.batch(2, index)[1] for index in range(batches.per_epoch)])

        assert sorted(labels[labels >= 0].tolist()) == [0] * 3 + [1] * 6
        assert sum(batches.targets_in(2, index) for index in range(batches.per_epoch)) == 9
        assert batches.batch(0, 0)[0].shape == (size, 12)


def test_rows_that_fill_up_a_batch_weigh_nothing(encoded: Path, train_split: EncodedSplit) -> None:
    task, model = TextClassification.open(encoded, {"max_seq_len": 12}), make()
    single = task.batches(train_split, batch_size=1, seed=1)
    whole = sum(task.loss(model, *single.batch(0, index)).item() for index in range(9))

    filled = task.loss(model, *task.batches(train_split, batch_size=20, seed=1).batch(0, 0))

    assert filled.item() == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_class_is_learned_at_every_precision(precision: str) -> None:
    model = make().train()
    convert_weights(model, precision)

    with arithmetic("cpu", precision):
        model(torch.tensor([[1, 40, 41, 2]])).logsumexp(-1).sum().backward()

    assert model.classifier.weight.grad is not None


def test_layers_are_computed_again_in_the_backward_pass_if_asked_for() -> None:
    model, counted = make().train(), []
    model.recompute = True
    model.body.layers[0].register_forward_pre_hook(lambda *_: counted.append(1))

    model(torch.tensor([[1, 40, 41, 2]])).sum().backward()

    assert len(counted) == 2


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_padding_changes_no_logit(pooling: Pooling) -> None:
    model = make(pooling)
    ids = torch.tensor([[1, 40, 41, 42, 2]])
    padded = torch.cat([ids, torch.full((1, 7), 3)], dim=1)

    assert torch.allclose(model(padded), model(ids), atol=1e-6)


def test_the_last_token_is_pooled_and_not_the_padding_after_it() -> None:
    model = make("last")
    ids = torch.tensor([[1, 40, 41, 3, 3], [1, 40, 41, 42, 2]])

    expected = model.classifier(torch.stack([model.body.hidden(ids[:1])[0, 2], model.body.hidden(ids[1:])[0, 4]]))

    assert torch.allclose(model(ids), expected, atol=1e-6)


def test_a_split_is_scored_whole_and_each_text_once(encoded: Path) -> None:
    task, model = TextClassification.open(encoded, {"max_seq_len": 12}), make()
    shares = [task.probabilities(model, text)[label] for text, label in DOCUMENTS["validation"]]

    found = task.evaluate(model, read_encoded(encoded, "validation"))

    assert found.targets == 2
    assert found.nats == pytest.approx(-np.log(shares).sum(), rel=1e-5)


def test_a_class_that_no_training_text_has_is_refused_by_name(tmp_path: Path) -> None:
    documents = {**DOCUMENTS, "validation": [("a fool", "fools")]}

    with pytest.raises(TokenizerError, match="class 'fools', which no training document has"):
        encode(tmp_path, documents)
