"""Batches: every token once an epoch, in an order that only seed and epoch decide."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.batches import IGNORED, Batches
from pipeline.data.encoded import map_array
from pipeline.errors import ArtifactError
from pipeline.memory import memory_bytes

pytestmark = pytest.mark.unit


def pairs(batches: Batches, epoch: int) -> Counter[tuple[int, int]]:
    """How often each (token, next token) is learned in an epoch."""
    seen: Counter[tuple[int, int]] = Counter()
    for index in range(batches.per_epoch):
        ids, targets = batches.batch(epoch, index)
        kept = targets != IGNORED
        seen.update(zip(ids[kept].tolist(), targets[kept].tolist(), strict=True))
    return seen


@settings(max_examples=60, deadline=None)
@given(count=st.integers(2, 200), length=st.integers(2, 33), size=st.integers(1, 9), epoch=st.integers(0, 5))
def test_every_token_but_the_first_is_a_target_exactly_once_an_epoch(
    count: int, length: int, size: int, epoch: int
) -> None:
    tokens = np.arange(count, dtype=np.uint16)  # all different, so that a pair names its place
    batches = Batches(tokens, length=length, batch_size=size, seed=1)

    assert pairs(batches, epoch) == Counter((place, place + 1) for place in range(count - 1))


@settings(max_examples=60, deadline=None)
@given(count=st.integers(2, 200), length=st.integers(2, 33), size=st.integers(1, 9))
def test_shapes_never_change_and_every_batch_has_targets(count: int, length: int, size: int) -> None:
    batches = Batches(np.arange(count, dtype=np.uint16), length=length, batch_size=size, seed=1)

    for epoch in range(3):
        for index in range(batches.per_epoch):
            ids, targets = batches.batch(epoch, index)
            assert ids.shape == targets.shape == (size, length)
            assert 0 < batches.targets_in(epoch, index) == int((targets != IGNORED).sum())


def test_the_order_is_a_function_of_seed_and_epoch_alone() -> None:
    tokens = np.arange(1000, dtype=np.uint16)

    def first(seed: int, epoch: int, *, visit: tuple[int, ...] = ()) -> list[int]:
        batches = Batches(tokens, length=8, batch_size=4, seed=seed)
        for other in visit:
            batches.batch(other, 0)
        return batches.batch(epoch, 3)[0].flatten().tolist()

    assert first(1, 2) == first(1, 2, visit=(0, 5, 1))
    assert first(1, 2) != first(1, 3)
    assert first(1, 2) != first(2, 2)


def test_windows_begin_elsewhere_in_another_epoch() -> None:
    batches = Batches(np.arange(1000, dtype=np.uint16), length=64, batch_size=1, seed=1)

    starts = [
        {int(batches.batch(epoch, index)[0][0, 0]) for index in range(batches.per_epoch)} - {0} for epoch in (0, 1)
    ]

    assert starts[0].isdisjoint(starts[1])


def test_a_stream_without_a_pair_is_refused() -> None:
    with pytest.raises(ArtifactError, match="fewer than two tokens"):
        Batches(np.arange(1, dtype=np.uint16), length=4, batch_size=1, seed=1)


def test_the_order_is_that_of_a_permutation_of_numpy() -> None:
    tokens = np.arange(70_000, dtype=np.uint32)
    batches = Batches(tokens, length=2, batch_size=7, seed=3)
    order = np.random.default_rng([3, 1]).permutation(len(tokens) // 2)

    first = [int(batches.batch(1, index)[0][row, 0]) // 2 for index in range(3) for row in range(7)]

    assert all(abs(window - int(place)) <= 1 for window, place in zip(first, order, strict=False))


def test_reading_a_mapped_file_in_random_order_leaves_none_of_it_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    path.touch()
    os.truncate(path, 500_000_000)  # sparse: it takes no space
    batches = Batches(map_array(path, "uint16"), length=256, batch_size=64, seed=1)
    batches.batch(0, 0)  # makes the order
    before, _ = memory_bytes()

    for index in range(300):
        batches.batch(0, index)

    assert memory_bytes()[0] - before < 10_000_000  # with pages left where they are, 450 MB
