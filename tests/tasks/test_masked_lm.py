"""Hidden tokens: which ones, behind what, the same again; a model learns more than how often each occurs."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.batches import IGNORED
from pipeline.data.documents import Document, write_split
from pipeline.data.encode import encode_corpus, metadata, write_metadata
from pipeline.data.encoded import EncodedSplit, read_encoded
from pipeline.data.masked_batches import Masking
from pipeline.data.tokenizer import Tokenizer, train_tokenizer
from pipeline.errors import ArtifactError
from pipeline.evaluation.baselines import unigram_baseline
from pipeline.models.bert import Bert, masked_places
from pipeline.spec import estimate_memory
from pipeline.tasks.masked_lm import MASK, MaskedLanguageModel

pytestmark = pytest.mark.unit

# The verb follows from the last word, which stands after it, and from nothing before it.
LINES = [f"the {one} {rest}" for one in ("sun", "moon") for rest in ("makes the day", "ends the night")]
VOCABULARY, MASK_ID, PAD_ID = 500, 4, 3
LENGTH = 32


def masking(length: int = LENGTH) -> Masking:
    ids = {"mask_id": MASK_ID, "pad_id": PAD_ID, "control_ids": (0, 1, 2)}
    return Masking(vocab_size=VOCABULARY, length=length, places=masked_places, **ids)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked")
    for split in ("train", "validation", "test"):
        write_split(
            folder / f"{split}.jsonl",
            (Document(f"{row}", LINES[row % 4]) for row in range(400 if split == "validation" else 40)),
        )
    data = train_tokenizer(LINES, tokenizer_type="word", vocab_size=272, special_tokens=[MASK])
    (folder / "tokenizer.model").write_bytes(data)
    tokenizer = Tokenizer(data)
    chosen = {"tokenizer_type": "word", "special_tokens": [MASK]}
    write_metadata(folder, metadata(tokenizer, encode_corpus(tokenizer, folder, folder), settings=chosen))
    return folder


@pytest.fixture
def split(folder: Path) -> EncodedSplit:
    return read_encoded(folder, "train")


@pytest.fixture
def task(folder: Path) -> MaskedLanguageModel:
    return MaskedLanguageModel.open(folder, {"max_seq_len": LENGTH})


def test_an_evaluation_asks_for_no_more_logits_at_once_than_it_may_and_hides_the_same_tokens(
    task: MaskedLanguageModel, split: EncodedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = Bert(
        vocab_size=272, d_model=16, num_layers=1, num_heads=2, d_ff=32, max_seq_len=LENGTH, pad_id=PAD_ID
    ).eval()
    asked: list[int] = []
    model.register_forward_hook(lambda _model, _given, logits: asked.append(logits.numel()))
    whole = task.evaluate(model, split)
    most = max(asked) - 1
    monkeypatch.setattr(estimate_memory, "_SCORED_LOGITS", most)
    asked.clear()

    in_pieces = task.evaluate(model, split)

    assert max(asked) <= most
    assert in_pieces.nats == pytest.approx(whole.nats, rel=1e-6)
    assert (in_pieces.targets, in_pieces.metrics) == (whole.targets, whole.metrics)


def test_of_all_tokens_15_percent_are_chosen_of_which_80_are_hidden_10_replaced_and_10_kept() -> None:
    ids = np.random.default_rng(0).integers(5, VOCABULARY, (2000, LENGTH))
    total = masked = same = 0
    others = []

    for row, sequence in enumerate(ids):
        hidden, places, targets = masking().hide(sequence, np.random.default_rng(row))
        assert (sequence[places] == targets).all()
        untouched = np.setdiff1d(np.arange(LENGTH), places)
        assert (hidden[untouched] == sequence[untouched]).all()
        total += len(np.unique(places))
        masked += int((hidden[places] == MASK_ID).sum())
        same += int((hidden[places] == targets).sum())
        others += hidden[places][(hidden[places] != MASK_ID) & (hidden[places] != targets)].tolist()

    assert total == 2000 * round(0.15 * LENGTH) == 10_000  # none is chosen twice
    # Four standard deviations of 10,000 draws: 0.016 at 0.8, 0.012 at 0.1. One of 495 replacements is the token itself.
    assert masked / total == pytest.approx(0.8, abs=0.016)
    assert same / total == pytest.approx(0.1, abs=0.012)
    assert min(others) >= 5
    assert len(set(others)) > 400  # any token of the vocabulary


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([1, 2, 3, 4, 7, 8, 9]), min_size=LENGTH, max_size=LENGTH), st.integers(0, 9))
def test_control_tokens_and_padding_are_chosen_only_where_there_is_nothing_else(ids: list[int], seed: int) -> None:
    sequence = np.array(ids)

    hidden, _, targets = masking().hide(sequence, np.random.default_rng(seed))

    chosen = targets[targets != IGNORED]
    assert len(chosen) == masking().targets(sequence[np.newaxis])
    assert PAD_ID not in chosen
    if (sequence >= 5).any():
        assert chosen.min() >= 5
    assert (hidden[sequence == PAD_ID] == PAD_ID).all()


@pytest.mark.parametrize("size", [1, 3, 8])
def test_what_is_hidden_depends_on_seed_epoch_and_row_and_not_on_the_batches(
    task: MaskedLanguageModel, split: EncodedSplit, size: int
) -> None:
    def rows(epoch: int, *, batch_size: int, seed: int = 5) -> list[torch.Tensor]:
        batches = task.batches(split, batch_size=batch_size, seed=seed)
        parts = [batches.batch(epoch, index) for index in reversed(range(batches.per_epoch))]  # in any order
        whole = [torch.cat(tensors) for tensors in zip(*reversed(parts), strict=True)]
        real = (whole[2] != IGNORED).any(1)  # without those that fill up the last batch
        return [tensor[real] for tensor in whole]

    assert all(map(torch.equal, rows(2, batch_size=size), rows(2, batch_size=4)))
    assert not torch.equal(rows(2, batch_size=4)[0], rows(3, batch_size=4)[0])
    assert not torch.equal(rows(2, batch_size=4)[0], rows(2, batch_size=4, seed=6)[0])


@pytest.mark.parametrize("size", [1, 4])
def test_targets_are_counted_before_they_are_drawn(task: MaskedLanguageModel, split: EncodedSplit, size: int) -> None:
    batches = task.batches(split, batch_size=size, seed=0)
    drawn = 0
    for index in range(batches.per_epoch):
        ids, places, targets = batches.batch(0, index)
        assert ids.shape == (size, LENGTH)
        assert places.shape == targets.shape == (size, masked_places(LENGTH))
        assert 0 < batches.targets_in(0, index) == int((targets != IGNORED).sum())
        drawn += batches.targets_in(0, index)

    assert drawn == pytest.approx(batches.targets_per_epoch, rel=0.2)


def test_a_model_guesses_what_frequencies_cannot_and_fills_it_in(
    folder: Path, task: MaskedLanguageModel, split: EncodedSplit
) -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer.load(folder / "tokenizer.model")
    shape = {"d_model": 32, "num_layers": 2, "num_heads": 2, "d_ff": 64, "max_seq_len": LENGTH}
    model = Bert(vocab_size=tokenizer.vocab_size, pad_id=PAD_ID, separate_documents=True, **shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batches = task.batches(split, batch_size=16, seed=0)
    for epoch in range(120):
        for index in range(batches.per_epoch):
            optimizer.zero_grad()
            (task.loss(model, *batches.batch(epoch, index)) / batches.targets_in(epoch, index)).backward()
            optimizer.step()
    model.eval()
    heldout = read_encoded(folder, "validation")

    found, known = task.evaluate(model, heldout), unigram_baseline(split, heldout)

    assert found.loss < 0.5 * known["unigram_loss"]
    assert found.metrics["accuracy"] > 0.7
    assert known["unigram_accuracy"] < 0.5
    assert task.evaluate(model, heldout) == found  # the same tokens are hidden again
    [sample] = task.samples(model, [f"the sun {MASK} the night"], max_new_tokens=1, temperature=0.0, seed=0)
    assert sample.shown == "the sun ends the night"
    assert sample.text == " ends"
    assert sample.new_tokens == 1


def test_frequencies_are_scored_on_text_alone(split: EncodedSplit) -> None:
    known = unigram_baseline(split, split)

    words = Counter(" ".join(LINES).split())
    counts = [10 * count for count in (words.pop("the") // 2,) * 2 + tuple(words.values())]  # `the` and ` the`
    total = sum(counts)
    others = split.metadata["vocab_size"] - 4 - 1  # without control tokens and the mask
    nats = sum(count * math.log((total + others) / (count + 1)) for count in counts)
    assert known["unigram_accuracy"] == pytest.approx(max(counts) / total)
    assert known["unigram_loss"] == pytest.approx(nats / total)


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    data = train_tokenizer(LINES, tokenizer_type="word", vocab_size=268)

    with pytest.raises(ArtifactError, match="no token <mask>") as caught:
        MaskedLanguageModel(tokenizer=Tokenizer(data), max_seq_len=8)

    assert "tokenizer.special_tokens" in caught.value.hint
