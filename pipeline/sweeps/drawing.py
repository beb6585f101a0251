"""How the values of a trial are chosen: by its place in the grid, at random, or where earlier trials were good.

What is chosen depends on the seed, the number of the trial and, for `tpe`, the trials that have ended: not on which
worker asks, nor on how often workers were killed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from pipeline.files import sha256_bytes
from pipeline.spec.space import grid_values, takes_whole_numbers


class GridSampler(BaseSampler):
    """Gives each trial the combination that has its number; the last dimension changes fastest.

    Optuna's own lets two workers try one combination.

    Args:
        space: the space of a sweep by `grid`.
    """

    def __init__(self, space: Mapping[str, Any]) -> None:
        self._texts = {path: [_text(value) for value in grid_values(path, space[path])] for path in space}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002 - Optuna's signature
        """Nothing: every dimension is asked for by itself."""
        return {}

    def sample_relative(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
        search_space: dict[str, BaseDistribution],  # noqa: ARG002
    ) -> dict[str, Any]:
        """Nothing, for the same reason."""
        return {}

    def sample_independent(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,  # noqa: ARG002
    ) -> str:
        """The value of one dimension."""
        rest = trial.number
        for path in reversed(self._texts):
            rest, index = divmod(rest, len(self._texts[path]))
            if path == param_name:
                return self._texts[path][index]
        raise AssertionError(f"{param_name} is not in the space")


def sampler_of(sweep: Mapping[str, Any], number: int) -> BaseSampler:
    """What chooses the values of a trial.

    Args:
        sweep: the document, complete.
        number: of the trial.
    """
    if sweep["method"] == "grid":
        return GridSampler(sweep["space"])
    # Each trial has a seed of its own: with one for all, every worker would draw the same values.
    seed = int(sha256_bytes(f"{sweep['seed']}/{number}".encode())[:8], 16)
    if sweep["method"] == "random":
        return RandomSampler(seed=seed)
    # A trial that goes on counts as a bad one, so that workers do not all try one place.
    return TPESampler(seed=seed, n_startup_trials=sweep["startup_trials"], constant_liar=True)


def distributions(sweep: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """The dimensions of a sweep's space as Optuna knows them.

    Values of lists are their JSON: a value may be a list itself, and Optuna tells 1 from 1.0 by type alone.
    """
    return {path: _distribution(path, dimension, sweep["method"]) for path, dimension in sweep["space"].items()}


def value_of(given: Any) -> Any:
    """The value of a setting that Optuna's value stands for."""
    return json.loads(given) if isinstance(given, str) else given


def size_of(sweep: Mapping[str, Any]) -> int | None:
    """How many trials a sweep has; None: until its time is over."""
    most: int | None = sweep["budget"]["max_trials"]
    if sweep["method"] != "grid":
        return most
    whole = math.prod(len(grid_values(path, dimension)) for path, dimension in sweep["space"].items())
    return whole if most is None else min(whole, most)


def _distribution(path: str, dimension: Any, method: str) -> BaseDistribution:
    named = isinstance(dimension, list) or dimension["kind"] == "choice" or dimension["points"] is not None
    if named or method == "grid":
        return CategoricalDistribution([_text(value) for value in grid_values(path, dimension)])
    low, high, step, log = dimension["low"], dimension["high"], dimension.get("step"), dimension["kind"] == "log_range"
    if step is not None:
        high = grid_values(path, dimension)[-1]  # Optuna wants a whole number of steps between both ends
    if takes_whole_numbers(path):
        return IntDistribution(int(low), int(high), log=log, step=1 if step is None else int(step))
    return FloatDistribution(low, high, log=log, step=step)


def _text(value: Any) -> str:
    return json.dumps(value)
