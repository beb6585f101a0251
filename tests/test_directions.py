"""Whether a change is for the better."""

from __future__ import annotations

import pytest

from pipeline.directions import judgement

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("name", "old", "new", "word"),
    [
        ("best_val_loss", 2.0, 1.0, "better"),
        ("best_val_loss", 1.0, 2.0, "worse"),
        ("bits_per_byte", 2.0, 1.9, "better"),
        ("tokens_per_second", 10.0, 20.0, "better"),
        ("inference/latency_p95_ms", 10.0, 20.0, "worse"),
        ("corpus/splits.train.documents", 10.0, 20.0, ""),
    ],
)
def test_the_direction_of_a_change_is_judged_by_what_is_measured(name, old, new, word):
    assert judgement(name, old, new).rsplit(")", 1)[-1].strip() == word


def test_a_change_from_nothing_has_no_percentage():
    assert judgement("failed", 0, 2) == "+2  worse"
