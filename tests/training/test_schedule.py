"""Learning rates, step counts and decay groups."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.transformer import Transformer
from pipeline.training.loop import planned_steps
from pipeline.training.optimizer import (
    Schedule,
    adamw,
    learning_rate_at,
    make_optimizer,
    set_learning_rate,
    warmup_length,
)

pytestmark = pytest.mark.unit

MUON: dict[str, Any] = {
    "optimizer_name": "muon",
    "learning_rate": 1e-3,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-8,
    "weight_decay": 0.1,
    "muon_learning_rate": 0.02,
    "muon_momentum": 0.95,
    "muon_method": "newton_schulz",
    "products": torch.float32,
}
SCHEDULES: tuple[Schedule, ...] = ("cosine", "linear", "constant", "wsd")


@given(
    schedule=st.sampled_from(SCHEDULES),
    total=st.integers(1, 300),
    warmup=st.integers(0, 300),
    floor=st.floats(0, 1),
    decay=st.floats(0.01, 1),
)
def test_rates_rise_to_the_peak_then_never_rise_again(
    schedule: Schedule, total: int, warmup: int, floor: float, decay: float
) -> None:
    warmup = min(warmup, total)
    rates = [
        learning_rate_at(
            step,
            total_steps=total,
            peak=2.0,
            schedule=schedule,
            warmup_steps=warmup,
            min_lr_ratio=floor,
            decay_ratio=decay,
        )
        for step in range(1, total + 1)
    ]

    assert all(0 < rate <= 2.0 or (rate == 0 and floor == 0) for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    if warmup:
        assert rates[warmup - 1] == 2.0


@pytest.mark.parametrize(
    ("schedule", "middle", "last"),
    [("cosine", 1.1, 0.2), ("linear", 1.1, 0.2), ("constant", 2.0, 2.0), ("wsd", 2.0, 0.2)],
)
def test_each_schedule_has_its_shape(schedule: Schedule, middle: float, last: float) -> None:
    rate = partial(
        learning_rate_at,
        total_steps=110,
        peak=2.0,
        schedule=schedule,
        warmup_steps=10,
        min_lr_ratio=0.1,
        decay_ratio=0.2,
    )

    assert rate(5) == pytest.approx(1.0)
    assert rate(10) == pytest.approx(2.0)
    assert rate(60) == pytest.approx(middle)
    assert rate(110) == pytest.approx(last)


def test_cosine_and_linear_part_between_their_common_points() -> None:
    rates = [
        learning_rate_at(
            25, total_steps=100, peak=1.0, schedule=schedule, warmup_steps=0, min_lr_ratio=0.0, decay_ratio=1.0
        )
        for schedule in ("cosine", "linear")
    ]

    assert rates == pytest.approx([0.853553, 0.75], abs=1e-6)


def test_warmup_is_given_in_steps_or_as_a_share() -> None:
    assert warmup_length(total_steps=200, warmup_ratio=0.1, warmup_steps=None) == 20
    assert warmup_length(total_steps=200, warmup_ratio=0.1, warmup_steps=7) == 7
    assert warmup_length(total_steps=5, warmup_ratio=0.1, warmup_steps=70) == 5


def test_steps_count_optimizer_steps_and_use_the_batches_left_over() -> None:
    assert planned_steps(batches_per_epoch=10, accumulation=4, epochs=3, max_steps=None) == 9
    assert planned_steps(batches_per_epoch=10, accumulation=4, epochs=3, max_steps=5) == 5


def test_only_weight_matrices_decay() -> None:
    model = Transformer(vocab_size=40, d_model=16, num_layers=1, num_heads=2, d_ff=32, max_seq_len=12, model_type="gpt")
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    decayed, spared = adamw(
        model, learning_rate=1.0, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1
    ).param_groups

    assert decayed["weight_decay"] == 0.1
    assert spared["weight_decay"] == 0.0
    assert {names[id(p)] for p in spared["params"]} == {
        name for name in names.values() if name.endswith("bias") or "norm" in name or "positions" in name
    }
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


def test_rates_of_groups_keep_their_ratio() -> None:
    model = Transformer(vocab_size=40, d_model=16, num_layers=1, num_heads=2, d_ff=32, max_seq_len=12)
    optimizer = make_optimizer(model, **{**MUON, "muon_learning_rate": 0.04, "learning_rate": 0.01})

    set_learning_rate(optimizer, 0.005)

    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.005, 0.005]


def test_an_update_is_that_of_the_paper() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(2.0)
    optimizer = adamw(model, learning_rate=0.1, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.5)
    model.weight.grad = torch.full((1, 1), 3.0)

    optimizer.step()

    # first step: the moments' corrections cancel, so the update is the sign of the gradient
    assert model.weight.item() == pytest.approx(2.0 - 0.1 * 0.5 * 2.0 - 0.1, rel=1e-6)
