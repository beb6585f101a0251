"""The space of a sweep: which values each of its dimensions stands for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.spec.schema import schema_at

_DIGITS = 6  # of a value between the ends of a range: enough to tell any two apart, few enough to read


def grid_values(path: str, dimension: Any, *, most: int | None = None) -> list[Any]:
    """The values of a dimension that a grid tries, in order; of a range without step and points both ends.

    Args:
        path: the dotted setting.
        dimension: its values, as a list or a range.
        most: how many values of a range with a step to list at most.
    """
    if isinstance(dimension, list):
        return dimension
    if dimension["kind"] == "choice":
        return list(dimension["values"])
    whole = takes_whole_numbers(path)
    return list(dict.fromkeys(_spelled(value, whole=whole) for value in _of_range(dimension, most)))


def takes_whole_numbers(path: str) -> bool:
    """Whether a setting of an experiment takes integers and no other numbers."""
    said = schema_at(tuple(path.split("."))).get("type", ())
    types = [said] if isinstance(said, str) else said
    return "integer" in types and "number" not in types


def _of_range(dimension: Mapping[str, Any], most: int | None) -> list[float]:
    low, high = dimension["low"], dimension["high"]
    if (step := dimension.get("step")) is not None:
        count = math.floor((high - low) / step + 1e-9) + 1  # both ends; the rest is for rounding
        return [low + step * index for index in range(count if most is None else min(count, most))]
    points = dimension.get("points")
    shares = [index / (points - 1) for index in range(points)] if points else [0.0, 1.0]
    if dimension["kind"] == "log_range":
        return [low * (high / low) ** share for share in shares]
    return [low + (high - low) * share for share in shares]


def _spelled(value: float, *, whole: bool) -> float | int:
    """A value of a range as people would write it."""
    rounded = float(f"{value:.{_DIGITS}g}")
    if whole:
        return round(rounded)
    return int(rounded) if rounded.is_integer() else rounded
