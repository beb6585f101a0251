"""The schedule of checkpoints: which steps, by arithmetic alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.spec.saves import scheduled_steps

pytestmark = pytest.mark.unit

DEFAULTS: dict[str, Any] = {
    "checkpoint_schedule": (),
    "auto_generate_checkpoints": True,
    "first_epoch_checkpoints": 20,
    "subsequent_epochs_spacing": "log",
    "log_base": 2,
    "linear_interval": None,
    "min_checkpoint_interval": 100,
    "min_checkpoints_per_epoch": 5,
}


def steps(*, total: int, per_epoch: int, **changes: Any) -> tuple[int, ...]:
    return scheduled_steps(total=total, per_epoch=per_epoch, **{**DEFAULTS, **changes})


def test_nothing_is_scheduled_unless_it_is_asked_for() -> None:
    assert steps(total=1000, per_epoch=100, auto_generate_checkpoints=False) == ()


def test_named_steps_are_scheduled_in_order_up_to_the_end() -> None:
    named = steps(total=50, per_epoch=10, auto_generate_checkpoints=False, checkpoint_schedule=(40, 0, 51, 7))

    assert named == (0, 7, 40)


def test_gaps_of_a_later_epoch_grow_by_the_base() -> None:
    found = steps(total=20_000, per_epoch=10_000)

    assert [step for step in found if step > 10_000] == [10_100, 10_300, 10_700, 11_500, 13_100, 16_300, 20_000]


def test_linear_gaps_of_a_later_epoch_are_even() -> None:
    found = steps(total=2_000, per_epoch=1_000, subsequent_epochs_spacing="linear", linear_interval=150)

    assert [step for step in found if step > 1_000] == [1_150, 1_300, 1_450, 1_600, 1_750, 1_900, 2_000]


def test_a_short_epoch_gets_its_least_number() -> None:
    found = steps(total=200, per_epoch=100)

    assert [step for step in found if step > 100] == [120, 140, 160, 180, 200]


@given(st.integers(1, 5_000), st.integers(1, 4), st.integers(1, 60), st.sampled_from(["log", "linear"]))
def test_every_schedule_has_its_ends_its_first_epoch_and_its_least_number(
    per_epoch: int, epochs: int, first: int, spacing: str
) -> None:
    total = per_epoch * epochs
    found = steps(total=total, per_epoch=per_epoch, first_epoch_checkpoints=first, subsequent_epochs_spacing=spacing)

    assert (found[0], found[-1]) == (0, total)
    assert all(before < after for before, after in pairwise(found))
    assert sum(0 < step <= per_epoch for step in found) == min(first, per_epoch)
    for begin in range(per_epoch, total, per_epoch):
        assert sum(begin < step <= begin + per_epoch for step in found) >= min(5, per_epoch)
