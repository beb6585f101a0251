"""What training takes besides its steps stays small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import overheads
import pytest
from bench_process import Clock

from pipeline import paths
from pipeline.spec import load_spec

pytestmark = pytest.mark.integration


FIGURES = {
    "interval": 200,
    "step_ms": 250.0,
    "save_ms": 100.0,
    "checkpoint_mb": 29.9,
    "note_ms": 2.5,
    "note_bytes": 600.0,
    "loading": [
        {
            "token_bytes": size,
            "batches": 1999,
            "batch_ms": 0.25,
            "p95_ms": 0.5,
            "order_seconds": 1.0,
            "order_mb": 78.0,
            "grown_mb": 0.0,
        }
        for size in (10_000_000, 10_000_000_000)
    ],
}


def test_the_share_of_a_checkpoint_is_that_of_the_steps_between_two() -> None:
    text = overheads.table_of(FIGURES)

    assert overheads.share_of_saving(FIGURES) == pytest.approx(0.002)
    assert "every 200 steps | 100 ms | 0.20% (at most 2%)" in text
    assert "a line of the ledger, 600 bytes, every step | 2.5 ms | 1.00% (at most 2%)" in text
    assert "a token file of 10 GB | 0.25 ms (95 of 100 within 0.50) | 0.10%" in text


def test_batches_of_a_file_are_read_and_timed() -> None:
    answers: list[dict[str, Any]] = []
    settings = {"model": {"max_seq_len": 32}, "batch_size": 2, "token_bytes": 100_000, "batches": 20}

    overheads.loading(settings, Clock(answers.append, lambda: None))

    assert answers[0]["batches"] == 19
    assert 0 < answers[0]["batch_ms"] <= answers[0]["p95_ms"] < 1000


def test_steps_are_noted_and_timed(tmp_path: Path) -> None:
    settings = overheads.settings_of(load_spec(paths.SPECS / "experiment.yaml"), tmp_path, quick=True)

    answer = overheads.in_child("overheads:noting", {**settings, "noted": 10})

    assert 0 < answer["note_ms"] < 1000
    assert 200 < answer["note_bytes"] < 1000


@pytest.mark.slow
def test_checkpoints_and_ledger_of_the_shipped_experiment_take_two_percent_at_most_and_a_large_file_no_memory() -> None:
    figures = overheads.measure(load_spec(paths.SPECS / "experiment.yaml"), quick=False)

    large = figures["loading"][-1]
    assert overheads.share_of_saving(figures) <= 0.02
    assert overheads.share_of_ledger(figures) <= 0.02
    assert large["token_bytes"] == 10_000_000_000
    assert large["grown_mb"] < 10
    assert large["batch_ms"] < 0.02 * figures["step_ms"]
