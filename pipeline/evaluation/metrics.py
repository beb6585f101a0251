"""Figures of a language model that follow from its total negative log-likelihood."""

from __future__ import annotations

import math


def language_metrics(nats: float, *, tokens: int, text_bytes: int) -> dict[str, float | None]:
    """Loss, perplexity and bits per byte of a scored text.

    Bits per byte compares models across tokenizers: the text has the same bytes for all of them.

    Args:
        nats: total negative log-likelihood of the text, natural logarithm.
        tokens: how many tokens were scored.
        text_bytes: UTF-8 bytes of the text.

    Returns:
        `val_loss` in nats per token, `perplexity` (exp of the loss), `bits_per_byte`. A figure that is not finite
        is None, because JSON has no word for it.
    """
    loss = nats / tokens
    return {
        "val_loss": finite(loss),
        "perplexity": finite(math.exp(loss)) if loss < 700 else None,  # e^710 is beyond float64
        "bits_per_byte": finite(nats / math.log(2) / text_bytes),
    }


def finite(value: float) -> float | None:
    """The value, or None where it is NaN or infinite."""
    return value if math.isfinite(value) else None


def quantile(values: list[float], share: float) -> float:
    """The value that `share` of the values do not exceed: nearest rank, so always one that was measured."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
