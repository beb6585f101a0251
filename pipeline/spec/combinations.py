"""Values of a sweep that no experiment can have together: each rule of an experiment, over the settings it reads."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.spec.rule import InnerFinding, Rule
from pipeline.spec.rules import RULES
from pipeline.spec.schema import EXPERIMENT
from pipeline.spec.space import grid_values
from pipeline.spec.words import listed, spelled

if TYPE_CHECKING:
    from pipeline.spec.project import Project

_MOST = 10_000  # combinations of the values that one rule reads: four settings of ten values each
_SHOWN = 5  # of the combinations that break one rule: the others differ in numbers only


def combinations_are_experiments(project: Project, space: Mapping[str, Any], base: str) -> Iterator[InnerFinding]:
    """What a sweep combines would pass the check of an experiment.

    A rule is tried on the combinations of the swept settings that it reads, not of all there are: a wrong pair is
    reported once, however many trials it stands in. The settings that are not swept are those of the base.

    Args:
        project: the folder in which the sweep would run.
        space: dotted setting → its values, as a list or a range; of a range without steps, both ends.
        base: the experiment that every trial starts from.
    """
    fixed = project.settings_of(base)
    for rule in RULES[EXPERIMENT]:
        swept = [name for name in rule.reads if name in space]
        if rule.code.startswith("E") and swept and fixed.keys() | set(swept) >= set(rule.reads):
            yield from itertools.islice(_broken(rule, swept, fixed, space, base), _SHOWN)


def _broken(
    rule: Rule, swept: Sequence[str], fixed: Mapping[str, Any], space: Mapping[str, Any], base: str
) -> Iterator[InnerFinding]:
    every = itertools.product(*(_values(name, space[name]) for name in swept))
    for chosen in itertools.islice(every, _MOST):
        values = {**fixed, **dict(zip(swept, (value for _, value in chosen), strict=True))}
        if found := rule.broken(*(values[name] for name in rule.reads)):
            given = listed([f"`{name}: {spelled(values[name])}`" for name in swept], "and")
            is_impossible = "cannot be tried together" if len(swept) > 1 else f"cannot be tried with {base}"
            hint = f"{found[1]}, or take one of the values out of the sweep"
            yield (swept[0], *chosen[0][0]), f"{given} {is_impossible}: {found[0]} [{rule.code}]", hint


def _values(path: str, dimension: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """The values that a dimension stands for, each with the keys to where it comes from."""
    values = grid_values(path, dimension, most=_MOST)
    if isinstance(dimension, list):
        return [((index,), value) for index, value in enumerate(values)]
    if dimension["kind"] == "choice":
        return [(("values", index), value) for index, value in enumerate(values)]
    return [((), value) for value in values]
