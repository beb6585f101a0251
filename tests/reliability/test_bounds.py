"""The scripts beside this file measure what docs/reliability.md says; here, a sample of each holds its bounds."""

from __future__ import annotations

import sys
from functools import partial

import pytest
from invariance import BOUNDS, ROWS, Documents, difference, mean_of_means, trained, within
from memory import BOUND, ERRORS, limited_by_the_system, short_at, short_of_memory

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("precision", "steps", "pieces"), [("32-true", 8, 4), ("32-true", 1, 32), ("bf16-mixed", 1, 4)]
)
def test_the_cut_of_a_step_does_not_weigh_on_its_update(precision: str, steps: int, pieces: int) -> None:
    whole = trained(1, ROWS, steps=steps, precision=precision)
    cut = trained(pieces, ROWS // pieces, steps=steps, precision=precision)

    assert within(difference(cut, whole), BOUNDS[precision, 1 if steps == 1 else 20])


def test_a_mean_of_means_would_break_the_bound() -> None:
    whole = trained(1, ROWS, steps=1)
    cut = trained(4, ROWS // 4, steps=1, around_loss=partial(mean_of_means, pieces=4))

    assert difference(cut, whole).relative > 100 * BOUNDS["32-true", 1].relative


def test_the_documents_of_the_measurement_differ_in_length_and_its_last_batch_is_ragged() -> None:
    batches = Documents(8)

    assert len({batches.targets_in(0, index) for index in range(batches.per_epoch)}) > 10
    assert len(batches.batch(0, batches.per_epoch - 1)[0]) == 3


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
def test_running_out_of_memory_moves_the_weights_no_further_than_promised(error) -> None:
    whole = trained(1, ROWS, steps=2)
    cut = trained(1, ROWS, steps=2, around_loss=partial(short_of_memory, rows=4, where="backward", error=error))
    retried = trained(1, ROWS, steps=2, optimizer_step=short_at({1}, error=error))

    assert cut[2] == [16, 8, 4]
    assert within(difference(cut, whole), BOUND)
    assert difference(retried, whole).largest == 0.0


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not hold processes to RLIMIT_AS")
def test_a_real_limit_of_memory_is_met_by_smaller_micro_batches() -> None:
    rows, apart = limited_by_the_system()

    assert rows
    assert rows == [ROWS >> number for number in range(1, len(rows) + 1)]
    assert within(apart, BOUND)
