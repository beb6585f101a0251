"""The bench of waiting threads trains in every way, and its table compares them with the first."""

from __future__ import annotations

import pytest
import waiting

pytestmark = pytest.mark.integration


@pytest.mark.slow
def test_every_way_of_waiting_trains_beside_another_process() -> None:
    row = waiting.measure("a small model", company=1, rounds=1, seconds=0.05, quick=True)

    assert row.keys() == waiting.WAYS.keys()
    assert min(row.values()) > 0


def test_the_way_that_stages_have_is_among_those_measured() -> None:
    assert waiting.WAITING in waiting.WAYS.values()


def test_the_table_has_the_first_way_in_tokens_and_the_others_as_ratios() -> None:
    row = {way: 1000.0 + 250 * number for number, way in enumerate(waiting.WAYS)}

    table = waiting.table_of({("the shipped model", 0): row, ("the shipped model", 1): row})

    assert "| the shipped model, alone | 1,000 | 1.25 | 1.50 | 1.75 | 2.00 | 2.25 |" in table
    assert "| the shipped model, beside 1 that never rests | 1,000 |" in table
