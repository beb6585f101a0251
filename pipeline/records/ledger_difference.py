"""Where two trainings part: the first step of their ledgers that differs, what of it, and which tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .ledger import Ledger, marks_of

# What of a step can differ, in the order in which it comes about: key of its line → what that says.
_OF_A_STEP = {
    "data": "another batch",
    "loss": "another loss from the same weights and the same batch",
    "gradients": "other gradients from the same loss",
    "gradient_norm": "another norm of the same gradients",
    "flaw": "the step was taken in one and passed over in the other",
    "weights": "other weights after the same gradients",
}


@dataclass(frozen=True)
class Parting:
    """Where two trainings part.

    Attributes:
        step: the optimizer step; 0: before the first.
        what: `tensors`, `weights`, `data`, `loss`, `gradients`, `gradient_norm`, `flaw`, `steps` or `end`.
        says: the same in words.
        tensors: those that differ at that step, or at the first step after it at which they were marked.
        marked_step: that step; None: no tensor is known to differ.
        epoch: of the step, from 1; None where it is not about one step.
        batch: its first batch of the epoch, from 1.
    """

    step: int
    what: str
    says: str
    tensors: tuple[str, ...] = ()
    marked_step: int | None = None
    epoch: int | None = None
    batch: int | None = None

    def __str__(self) -> str:
        place = "before the first step" if self.step == 0 else f"step {self.step}"
        where = "" if self.epoch is None else f" (epoch {self.epoch}, batch {self.batch})"
        return f"{place}{where}: {self.says}"


def parting_of(first: Ledger, second: Ledger) -> Parting | None:
    """Where two trainings part; None: every step came to the same, and so did the weights that they left."""
    names = first.begin["tensors"]
    if names != second.begin["tensors"]:
        odd = set(names) ^ set(second.begin["tensors"])
        order = [*names, *second.begin["tensors"]]
        return Parting(0, "tensors", "the models are made of other tensors", tuple(sorted(odd, key=order.index)), 0)
    if differing := _differing(names, first.begin, second.begin, "weights"):
        return Parting(0, "weights", "other weights", differing, 0)
    one, two = _by_step(first), _by_step(second)
    for step in sorted(one.keys() & two.keys()):
        if (what := _what_differs(names, one[step], two[step])) is not None:
            tensors, marked = _tensors_after(names, one, two, step)
            place = {key: one[step][key] for key in ("epoch", "batch")}
            unknown = what == "weights" and not _have_gradients(one[step], two[step])
            says = "other weights after gradients of the same norm" if unknown else _OF_A_STEP[what]
            return Parting(step, what, says, tensors, marked, **place)
    if one.keys() != two.keys():
        last = min(max(one, default=0), max(two, default=0))
        return Parting(last, "steps", f"one ends after step {last}, the other goes on")
    if _kept_otherwise(first, second):
        return Parting(max(one, default=0), "end", "every step is the same, but not what was kept of it")
    return None


def _kept_otherwise(first: Ledger, second: Ledger) -> bool:
    """Whether a file of weights that both left is another one."""
    one, two = ((ledger.end or {}).get("weights", {}) for ledger in (first, second))
    return any(one[name] != two[name] for name in one.keys() & two.keys())


def _by_step(ledger: Ledger) -> dict[int, Mapping[str, Any]]:
    return {row["step"]: row for row in ledger.steps}


def _what_differs(names: Sequence[str], one: Mapping[str, Any], two: Mapping[str, Any]) -> str | None:
    """The first thing in a step that differs. Marks that only one of them has say nothing.

    Where gradients were not marked, another norm tells that they are others.
    """
    for key in _OF_A_STEP:
        if key in ("gradients", "weights"):
            if _differing(names, one, two, key):
                return key
        elif one.get(key) != two.get(key):
            return "gradients" if key == "gradient_norm" and not _have_gradients(one, two) else key
    return None


def _have_gradients(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    """Whether gradients were marked in both."""
    return "gradients" in one and "gradients" in two


def _tensors_after(
    names: Sequence[str], one: Mapping[int, Mapping[str, Any]], two: Mapping[int, Mapping[str, Any]], step: int
) -> tuple[tuple[str, ...], int | None]:
    """The tensors whose marks differ first, from a step on, and the step at which they do."""
    for later in sorted(number for number in one.keys() & two.keys() if number >= step):
        for key in ("gradients", "weights"):
            if differing := _differing(names, one[later], two[later], key):
                return differing, later
    return (), None


def _differing(names: Sequence[str], one: Mapping[str, Any], two: Mapping[str, Any], key: str) -> tuple[str, ...]:
    if one.get(key) == two.get(key):
        return ()
    first, second = marks_of(one, key), marks_of(two, key)
    if first is None or second is None:
        return ()
    return tuple(name for name, mine, other in zip(names, first, second, strict=True) if mine != other)
