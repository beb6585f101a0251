"""The Shapiro-Wilk test: are some values drawn from a normal distribution?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

_NORMAL = NormalDist()


def shapiro_wilk(values: Sequence[float]) -> tuple[float, float]:
    """The statistic W, near 1 for normal values, and its p-value.

    Royston, "Remark AS R94", Applied Statistics 44 (1995), pages 547 to 551.

    Args:
        values: 12 to 5,000 of them, not all equal.
    """
    count = len(values)
    assert 12 <= count <= 5000, "the approximation is for so many values"
    x = np.sort(np.asarray(values, dtype=np.float64))
    expected = np.array([_NORMAL.inv_cdf((rank - 0.375) / (count + 0.25)) for rank in range(1, count + 1)])
    square = float(expected @ expected)
    root = 1 / math.sqrt(count)
    last = expected[-1] / math.sqrt(square) + _polynomial(root, 0, 0.221157, -0.147981, -2.071190, 4.434685, -2.706056)
    second = expected[-2] / math.sqrt(square) + _polynomial(
        root, 0, 0.042981, -0.293762, -1.752461, 5.682633, -3.582633
    )
    rest = (square - 2 * expected[-1] ** 2 - 2 * expected[-2] ** 2) / (1 - 2 * last**2 - 2 * second**2)
    weights = expected / math.sqrt(rest)
    weights[[0, 1, -2, -1]] = -last, -second, second, last
    spread = x - x.mean()
    statistic = min(1.0, float((weights @ x) ** 2 / (spread @ spread)))
    log_count = math.log(count)
    mean = _polynomial(log_count, -1.5861, -0.31082, -0.083751, 0.0038915)
    deviation = math.exp(_polynomial(log_count, -0.4803, -0.082676, 0.0030302))
    surprise = (math.log(max(1 - statistic, 1e-300)) - mean) / deviation
    return statistic, 1 - _NORMAL.cdf(surprise)


def _polynomial(x: float, *coefficients: float) -> float:
    """Coefficients in ascending order of the power."""
    return sum(coefficient * x**power for power, coefficient in enumerate(coefficients))
