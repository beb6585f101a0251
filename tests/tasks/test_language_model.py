"""Scoring: every token once, the same whatever the batch, in the units it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.models.transformer import Transformer
from pipeline.tasks.language_model import bits_per_byte, loss_sum, score

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(vocab_size=40, d_model=16, num_layers=1, num_heads=2, d_ff=32, max_seq_len=16).eval()


@pytest.mark.parametrize("count", [2, 16, 17, 18, 100])
def test_the_score_is_the_sum_over_windows_written_out(model: Transformer, count: int) -> None:
    tokens = np.random.default_rng(0).integers(40, size=count)
    expected = 0.0
    for start in range(0, count - 1, 16):
        window = torch.tensor(tokens[start : start + 17])
        log_probabilities = model(window[None, :-1]).log_softmax(-1)[0]
        expected -= sum(log_probabilities[place, token].item() for place, token in enumerate(window[1:]))

    nats, scored = score(model, tokens, max_seq_len=16, batch_size=3)

    assert scored == count - 1
    assert nats == pytest.approx(expected, rel=1e-5)


def test_the_batch_size_does_not_weigh_on_the_score(model: Transformer) -> None:
    tokens = np.random.default_rng(0).integers(40, size=333)

    scores = [score(model, tokens, max_seq_len=16, batch_size=size)[0] for size in (1, 4, 64)]

    assert scores == pytest.approx([scores[0]] * 3, rel=1e-6)


def test_scoring_leaves_the_random_state_alone(model: Transformer) -> None:
    before = torch.get_rng_state()

    score(model, np.arange(40), max_seq_len=16)

    assert torch.equal(before, torch.get_rng_state())


def test_ignored_targets_weigh_nothing(model: Transformer) -> None:
    ids, targets = torch.randint(40, (2, 8)), torch.randint(40, (2, 8))
    masked = targets.clone()
    masked[1] = -100

    assert loss_sum(model, ids, masked).item() == pytest.approx(loss_sum(model, ids[:1], targets[:1]).item(), rel=1e-5)


def test_guessing_bytes_costs_eight_bits_each() -> None:
    assert bits_per_byte(1000 * math.log(256), 1000) == pytest.approx(8.0)
