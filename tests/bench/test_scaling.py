"""The bench of model sizes trains what it says, and compares it with the plan."""

from __future__ import annotations

import pytest
import scaling

from pipeline import paths
from pipeline.spec import load_spec

pytestmark = pytest.mark.integration

_TINY = (300, 2, {"d_model": 32, "num_layers": 1, "num_heads": 2, "d_ff": 64, "max_seq_len": 16})


@pytest.mark.slow
def test_a_size_is_trained_and_planned_for_the_same_model() -> None:
    row = scaling.measure("tiny", load_spec(paths.SPECS / "experiment.yaml"), seconds=0.2, sizes={"tiny": _TINY})

    assert row["parameters"] == row["planned_parameters"]
    assert (row["rows"], row["length"]) == (2, 16)
    assert row["tokens_per_second"] > 0 < row["planned_tokens_per_second"]
    assert row["mb"] > 100


def test_the_table_says_how_far_the_plan_was_off() -> None:
    row = {
        "parameters": 1_000_000,
        "planned_parameters": 1_000_000,
        "precision": "32-true",
        "rows": 8,
        "length": 256,
        "tokens_per_second": 1000.0,
        "gflops": 6.0,
        "mb": 500.0,
        "planned_tokens_per_second": 1100.0,
        "planned_mb": 450.0,
    }

    assert "| 1,000,000 | 8 x 256, 32-true | 1,000 | +10% | 6 | 500 MB | -10% |" in scaling.table_of([row])


@pytest.mark.parametrize(("name", "size"), [("1M", 1e6), ("10M", 1e7), ("50M", 5e7), ("124M", 124e6)])
def test_the_sizes_are_what_they_are_called(name: str, size: float) -> None:
    spec = load_spec(paths.SPECS / "experiment.yaml")
    vocab_size, rows, model = scaling.SIZES[name]

    shape = scaling.shape_of(scaling._values(spec, model, rows)["model"], vocab_size)

    assert scaling.count(shape) == pytest.approx(size, rel=0.15)
