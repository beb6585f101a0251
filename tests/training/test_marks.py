"""Marks of tensors follow every bit and nothing else; what the loop tells of its steps changes none of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from training_bench import Bench

from pipeline.training.distributed import ALONE
from pipeline.training.ledger import Entry, Teller
from pipeline.training.marks import mark

pytestmark = pytest.mark.unit

Make = Callable[..., Any]
SIZES = [0, 1, 2, 3, 1023, 2048, 2049, 5000]  # a row is 2,048 numbers of 32 bits


def reference(data: bytes) -> bytes:
    """The mark of some bytes, in whole numbers of Python."""
    mask, factors = 2**64 - 1, []
    for number in range(1, 1025):
        z = number * 0x9E3779B97F4A7C15 & mask
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        factors.append((z ^ z >> 31) | 1)
    sums = b""
    while len(data) >= 8192:
        words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, 8192, 8)]
        sums += (sum(map(int.__mul__, words, factors)) & mask).to_bytes(8, "little")
        data = data[8192:]
    return hashlib.sha256(sums + data).digest()[:4]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mark_is_what_whole_numbers_of_python_give(size, dtype):
    tensor = torch.randn(size).to(dtype)

    assert mark(tensor) == reference(tensor.view(torch.uint8).numpy().tobytes())


@pytest.mark.parametrize("size", SIZES[1:])
def test_a_flipped_bit_anywhere_gives_another_mark(size):
    words = torch.randn(size).view(torch.int32)
    expected = mark(words)

    for at in {0, size // 2, size - 1}:
        for bit in range(32):
            flipped = words.clone()
            flipped[at] ^= 1 << bit if bit < 31 else -(2**31)
            assert mark(flipped) != expected


def test_shape_place_in_memory_and_threads_do_not_count():
    tensor = torch.randn(64, 300)
    threads = torch.get_num_threads()
    expected = mark(tensor)

    torch.set_num_threads(2)
    shifted = torch.cat([torch.zeros(1), tensor.flatten()])[1:]  # begins at no multiple of eight bytes
    marks = {mark(tensor), mark(tensor.flatten()), mark(tensor.T.contiguous().T), mark(shifted)}
    torch.set_num_threads(threads)

    assert marks == {expected}
    assert mark(tensor.T) != expected


class Watched(Bench):
    """A run whose steps are told."""

    def start(self, *arguments: Any, **named: Any) -> Any:
        self.entries: list[Entry] = getattr(self, "entries", [])
        self.witness_of = self.teller
        return super().start(*arguments, **named)

    def teller(self) -> Teller:
        teller = Teller(self.model, ALONE)
        teller.tell = self.entries.append
        return teller


def test_a_run_that_is_watched_takes_the_same_steps_and_each_is_told(make_bench: Make, tmp_path):
    plain = make_bench()
    expected = plain.identity(plain.start())
    (tmp_path / "watched").mkdir()
    watched = Watched(tmp_path / "watched")

    assert watched.identity(watched.start()) == expected
    assert [entry.step for entry in watched.entries] == list(range(1, 25))
    assert watched.entries[-1].weights == b"".join(map(mark, watched.model.parameters()))
    assert len({entry.weights for entry in watched.entries}) == 24
    assert len({entry.data for entry in watched.entries}) == 24


def test_a_step_that_is_passed_over_is_told_with_its_flaw_and_leaves_the_weights(tmp_path):
    watched = Watched(tmp_path, on_nonfinite="skip")
    calls = []
    loss = watched.loss
    watched.loss = lambda *batch: loss(*batch) * (float("nan") if calls.append(0) or len(calls) == 5 else 1.0)

    watched.start()

    before, flawed, after = watched.entries[1:4]  # two batches a step
    assert (before.flaw, flawed.flaw, after.flaw) == ("", "loss", "")
    assert before.weights == flawed.weights != after.weights
