"""Pairs: only the target counts, whatever the cut; the figures are those of writing it greedily."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.data.batches import IGNORED
from pipeline.data.documents import Document, read_documents, write_split
from pipeline.data.encode import contents_of, encode_corpus, metadata, round_trip, write_metadata
from pipeline.data.encoded import EncodedSplit, read_encoded
from pipeline.data.passages import pairs
from pipeline.data.tokenizer import Tokenizer, train_tokenizer
from pipeline.errors import CorpusError
from pipeline.evaluation.baselines import copy_baseline
from pipeline.models.transformer import Transformer
from pipeline.spec import estimate_memory
from pipeline.tasks.language_model import LanguageModel
from pipeline.tasks.seq2seq import PrefixTask

pytestmark = pytest.mark.unit
PAIRS = [("one and two", "three"), ("a b c", "A B C!"), ("same", "same")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for split in ("train", "validation", "test"):
        rows = (Document(f"{number}", text, target=target) for number, (text, target) in enumerate(PAIRS))
        write_split(folder / f"{split}.jsonl", rows if split != "test" else ())
    data = train_tokenizer([text for pair in PAIRS for text in pair], tokenizer_type="bpe", vocab_size=285)
    (folder / "tokenizer.model").write_bytes(data)
    tokenizer, contents = Tokenizer(data), contents_of(folder / "train.jsonl")
    counts = encode_corpus(tokenizer, folder, folder, contents)
    settings = {"tokenizer_type": "bpe", "special_tokens": []}
    write_metadata(folder, metadata(tokenizer, counts, settings=settings, contents=contents))
    return folder


@pytest.fixture
def split(folder: Path) -> EncodedSplit:
    return read_encoded(folder, "train")


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    shape = {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 32, "max_seq_len": 48}
    return Transformer(vocab_size=285, init_std=0.3, **shape).eval()


@pytest.mark.parametrize("kind", [PrefixTask, LanguageModel])
def test_an_evaluation_asks_for_no_more_logits_at_once_than_it_may(
    folder: Path, split: EncodedSplit, model: Transformer, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = kind(tokenizer=Tokenizer.load(folder / "tokenizer.model"), max_seq_len=12)
    asked: list[int] = []
    model.register_forward_hook(lambda _model, _given, logits: asked.append(logits.numel()))
    whole = task.evaluate(model, split)
    most = max(asked) - 1
    monkeypatch.setattr(estimate_memory, "_SCORED_LOGITS", most)
    asked.clear()

    in_pieces = task.evaluate(model, split)

    assert max(asked) <= most
    assert len(asked) > 1
    assert in_pieces.nats == pytest.approx(whole.nats, rel=1e-6)
    assert (in_pieces.targets, in_pieces.metrics) == (whole.targets, pytest.approx(whole.metrics))


@pytest.mark.parametrize("length", [3, 6, 12, 48])
def test_every_token_of_the_target_counts_and_none_of_the_source(
    folder: Path, split: EncodedSplit, length: int
) -> None:
    tokenizer = Tokenizer.load(folder / "tokenizer.model")
    batches = PrefixTask(tokenizer=tokenizer, max_seq_len=length).batches(split, batch_size=1, seed=0)

    learned = []
    for index in range(batches.per_epoch):
        ids, targets = batches.batch(0, index)
        counted = targets[targets != IGNORED].tolist()
        assert len(counted) == batches.targets_in(0, index)
        assert counted[-1] == tokenizer.eos_id
        assert ids.shape == targets.shape == (1, length)
        learned.append(tokenizer.decode(counted[:-1]))

    if length == 48:
        assert sorted(learned) == sorted(target for _, target in PAIRS)
    assert all(any(target.endswith(text) for _, target in PAIRS) for text in learned)


def test_pairs_come_back_from_their_tokens(folder: Path) -> None:
    checked = round_trip(Tokenizer.load(folder / "tokenizer.model"), folder / "train.jsonl", folder, "train")

    assert (checked["documents"], checked["exact"]) == (3, 3)


def test_an_exact_match_is_a_target_that_would_be_written_greedily(
    folder: Path, split: EncodedSplit, model: Transformer
) -> None:
    tokenizer = Tokenizer.load(folder / "tokenizer.model")
    task = PrefixTask(tokenizer=tokenizer, max_seq_len=48)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    batches = task.batches(split, batch_size=3, seed=0)
    for epoch in range(60):
        optimizer.zero_grad()
        task.loss(model, *batches.batch(epoch, 0)).backward()
        optimizer.step()

        if epoch % 5 == 4:
            written = task.samples(model, [text for text, _ in PAIRS], max_new_tokens=20, temperature=0.0, seed=0)
            equal = sum(sample.text == target for sample, (_, target) in zip(written, PAIRS, strict=True))
            assert task.evaluate(model, split).metrics["exact_match"] == pytest.approx(equal / 3)

    assert equal == 3


def test_copying_is_right_where_source_and_target_are_equal(split: EncodedSplit) -> None:
    assert copy_baseline(split, split) == {"copy_exact_match": pytest.approx(1 / 3)}


def test_lines_become_pairs_of_what_is_bare_and_what_was_written() -> None:
    line = "To be, or not to be: that's the question!"
    play = Document("play", f"{line}\n\nExit\n{line}")

    [pair] = pairs([play], "restore_case_and_punctuation")

    assert (pair.text, pair.target) == ("to be or not to be that's the question", line)


def test_a_record_without_its_target_is_refused_with_the_line() -> None:
    with pytest.raises(CorpusError, match="the field 'answer' is missing") as caught:
        read_documents(b'{"text": "a", "reply": "b"}', name="x.jsonl", format="auto", target_field="answer")

    assert caught.value.where == "x.jsonl:1"
    assert "dataset.target_field" in caught.value.hint


@pytest.mark.parametrize("label", ["null", '""', "1.5", "true"])
def test_a_label_that_names_no_class_is_refused(label: str) -> None:
    with pytest.raises(CorpusError, match="names no class"):
        read_documents(b'{"text": "a", "kind": %s}' % label.encode(), name="x.jsonl", format="auto", label_field="kind")


def test_a_plain_text_has_no_fields_and_a_file_outside_of_folders_no_class() -> None:
    with pytest.raises(CorpusError, match="only JSON Lines have fields"):
        read_documents(b"a", name="x.txt", format="auto", label_field="kind")
    with pytest.raises(CorpusError, match="lies in no folder"):
        read_documents(b"a", name="x.txt", format="auto", label_from_folder=True)
