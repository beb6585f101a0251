"""Figures of a validation report."""

from __future__ import annotations

import math

from pipeline.tasks.task import Evaluation


def reported(found: Evaluation) -> dict[str, float | None]:
    """What a validation report says of an evaluation: the loss, for tokens its perplexity too, and the task's metrics.

    Returns:
        `val_loss` in nats per target, `perplexity` (exp of the loss) where the targets are tokens of a text. A figure
        that is not finite is None, because JSON has no word for it.
    """
    figures: dict[str, float | None] = {"val_loss": finite(found.loss)}
    if "bits_per_byte" in found.metrics:
        figures["perplexity"] = finite(math.exp(found.loss)) if found.loss < 700 else None  # e^710 is beyond float64
    return figures | {name: finite(value) for name, value in found.metrics.items()}


def finite(value: float) -> float | None:
    """The value, or None where it is NaN or infinite."""
    return value if math.isfinite(value) else None


def quantile(values: list[float], share: float) -> float:
    """The value that `share` of the values do not exceed: nearest rank, so always one that was measured."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
