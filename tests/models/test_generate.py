"""Generation: greedy is the argmax, sampling follows its filters, the same seed says the same."""

from __future__ import annotations

import pytest
import torch

from pipeline.models.generate import choose, generate
from pipeline.models.transformer import Transformer

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(3)
    model = Transformer(vocab_size=40, d_model=16, num_layers=2, num_heads=2, d_ff=32, max_seq_len=12)
    for parameter in model.parameters():
        parameter.data *= 5
    return model.eval()


def test_greedy_tokens_are_the_argmax_of_the_whole_sequence(model: Transformer) -> None:
    seen = [1, 2, 3]
    for _ in range(9):
        seen.append(int(model(torch.tensor([seen]))[0, -1].argmax()))

    assert list(generate(model, [1, 2, 3], max_new_tokens=9)) == seen[3:]


def test_the_same_seed_says_the_same_and_another_does_not(model: Transformer) -> None:
    def say(seed: int) -> list[int]:
        return list(generate(model, [1], max_new_tokens=11, temperature=1.5, seed=seed))

    assert say(1) == say(1)
    assert len({tuple(say(seed)) for seed in range(5)}) > 1


def test_sampling_leaves_the_global_random_state_alone(model: Transformer) -> None:
    before = torch.get_rng_state()

    list(generate(model, [1], max_new_tokens=5, temperature=1.0))

    assert torch.equal(before, torch.get_rng_state())


def test_generation_goes_on_past_the_longest_sequence(model: Transformer) -> None:
    assert len(list(generate(model, list(range(30)), max_new_tokens=40))) == 40


def test_generation_ends_before_a_stop_token(model: Transformer) -> None:
    tokens = list(generate(model, [1, 2, 3], max_new_tokens=9))
    stop = tokens[4]

    assert list(generate(model, [1, 2, 3], max_new_tokens=9, stop_ids=[stop])) == tokens[: tokens.index(stop)]


def chosen(logits: list[float], **filters: float | None) -> set[int]:
    arguments = {"temperature": 1.0, "top_k": None, "top_p": None, **filters}
    generator = torch.Generator().manual_seed(0)
    return {choose(torch.tensor(logits), **arguments, generator=generator) for _ in range(300)}  # type: ignore[arg-type]


def test_top_k_keeps_the_k_likeliest() -> None:
    assert chosen([0.0, 0.5, 0.4, -1.0]) == {0, 1, 2, 3}
    assert chosen([0.0, 0.5, 0.4, -1.0], top_k=2) == {1, 2}


def test_top_p_keeps_the_fewest_that_reach_p() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()

    assert chosen(logits, top_p=0.79) == {0, 1}
    assert chosen(logits, top_p=0.81) == {0, 1, 2}
    assert chosen(logits, top_p=0.01) == {0}
