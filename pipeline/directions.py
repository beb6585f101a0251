"""Which way a metric is better, by its name, and how a change of it reads."""

from __future__ import annotations

from typing import Literal

# Parts of a metric's name that say which way is better. What neither names is shown without a judgement.
_LOWER_IS_BETTER = (
    "loss",
    "perplexity",
    "bits_per_byte",
    "seconds",
    "_ms",
    "_mb",
    "rss",
    "peak",
    "diff",
    "failed",
    "warnings",
    "unused",
    "byte_fallback",
    "tokens_per_byte",
)
_HIGHER_IS_BETTER = (
    "tokens_per_second",
    "accuracy",
    "macro_f1",
    "exact_match",
    "health_score",
    "passed",
    "per_token",
    "speedup",
)


def direction(name: str) -> Literal["min", "max"] | None:
    """Whether the lowest or the highest value of a metric is the best; None where its name does not say."""
    if any(part in name for part in _HIGHER_IS_BETTER):
        return "max"
    return "min" if any(part in name for part in _LOWER_IS_BETTER) else None


def judgement(name: str, old: float, new: float) -> str:
    """The change from old to new, in per cent where that makes sense, and whether it is for the better."""
    percent = f" ({(new - old) / abs(old):+.1%})" if old else ""
    better = {"max": new > old, "min": new < old, None: None}[direction(name)]
    word = "" if better is None else "better" if better else "worse"
    return f"{new - old:+.4g}{percent}{f'  {word}' if word else ''}"
