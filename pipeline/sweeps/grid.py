"""Every combination of some values, for scripts that run their experiments themselves."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.errors import FoundryError


def run_grid_sweep(
    base: Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    run_fn: Callable[[dict[str, Any]], str],
) -> list[str]:
    """Run an experiment with every combination of some values.

    Args:
        base: the settings that all runs share, as nested mappings; it is left as it is.
        grid: dotted setting → the values to try. Every setting is one of `base`.
        run_fn: runs the settings that it is given, which are a copy of its own, and returns the identity of the run.

    Returns:
        The identities, in the order of the combinations: the last setting changes fastest.

    Raises:
        FoundryError: `base` has no such setting. Nothing has been run then.
    """
    for path in grid:
        _home_of(base, path)
    ids = []
    for chosen in itertools.product(*grid.values()):
        settings = copy.deepcopy(dict(base))
        for path, value in zip(grid, chosen, strict=True):
            home, name = _home_of(settings, path)
            home[name] = copy.deepcopy(value)
        ids.append(run_fn(settings))
    return ids


def _home_of(settings: Mapping[str, Any], path: str) -> tuple[Any, str]:
    """The mapping that holds a setting, and the setting's name in it."""
    *sections, name = path.split(".")
    home: Any = settings
    for key in sections:
        home = home.get(key) if isinstance(home, Mapping) else None
    if not isinstance(home, Mapping) or name not in home:
        raise FoundryError(
            f"the base has no setting `{path}`", hint="name one that is there, as training.learning_rate"
        )
    return home, name
