"""Parameters of templates: `${name}` among the values stands for what is chosen; and the rules that hold for them.

The text `${name}` alone becomes the chosen value, whatever its type; inside a longer text it becomes text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipeline.spec.nearest import closest
from pipeline.spec.rule import InnerFinding, InnerRule
from pipeline.spec.words import describe, expected
from pipeline.spec.write import inline

_HOLE = re.compile(r"\$\{([^{}]*)\}")


def fill(values: Any, chosen: Mapping[str, Any]) -> Any:
    """Values with what was chosen in place of each `${name}`.

    Args:
        values: of a template that passed the check.
        chosen: a value for every parameter.
    """
    if isinstance(values, Mapping):
        return {name: fill(value, chosen) for name, value in values.items()}
    if isinstance(values, list):
        return [fill(value, chosen) for value in values]
    if not isinstance(values, str):
        return values
    if whole := _HOLE.fullmatch(values):
        return chosen[whole[1]]
    return _HOLE.sub(lambda hole: _as_text(chosen[hole[1]]), values)


def has_type(kind: str, value: Any) -> bool:
    """Whether a value is of a parameter's type; a whole number is a number too, a boolean is neither."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - slow to import

    return Draft202012Validator({"type": kind}).is_valid(value)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else inline(value)


def _holes(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Where each `${name}` stands, and the name."""
    if isinstance(value, str):
        yield from ((keys, hole[1]) for hole in _HOLE.finditer(value))
    elif isinstance(value, list | Mapping):
        items = enumerate(value) if isinstance(value, list) else value.items()
        for key, item in items:
            yield from _holes(item, (*keys, key))


# The rules


def holes_have_parameters(values: Mapping[str, Any], parameters: Mapping[str, Any]) -> Iterable[InnerFinding]:
    """Every `${name}` is the name of a parameter."""
    for keys, name in _holes(values):
        if name not in parameters:
            meant = closest(name, parameters)
            yield (
                keys,
                f"`${{{name}}}` names no parameter",
                f"did you mean `${{{meant}}}`?" if meant else f"add {name} to `parameters:`",
            )


def parameters_are_used(parameters: Mapping[str, Any], values: Mapping[str, Any]) -> Iterable[InnerFinding]:
    """A parameter that stands nowhere would be asked for in vain."""
    used = {name for _, name in _holes(values)}
    for name in parameters:
        if name not in used:
            yield (name,), f"nothing uses the parameter `{name}`", f"write ${{{name}}} where it belongs, or remove it"


def parameters_can_be_filled(parameters: Mapping[str, Any]) -> Iterable[InnerFinding]:
    """A parameter has a default, or an example of what could fill the hole; either is of its type."""
    for name, parameter in parameters.items():
        kind, given = parameter["type"], [key for key in ("default", "example") if key in parameter]
        if len(given) != 1:
            found = "both a default and an example" if given else "neither a default nor an example"
            hint = "give a default, or for a hole that must be filled an example"
            yield (name,), f"the parameter `{name}` has {found}", hint
            continue
        value = parameter[given[0]]
        if not has_type(kind, value) and not (value is None and given == ["default"]):
            message = f"the {given[0]} of `{name}` must be {expected({'type': kind})}, but is {describe(value)}"
            yield (name, given[0]), message, "change the value or the type"


def document_is_right(
    values: Mapping[str, Any], parameters: Mapping[str, Any], kind: str, name: str
) -> Iterable[InnerFinding]:
    """Filled with defaults and examples, a template becomes a document that passes the check."""
    if any(parameters_can_be_filled(parameters)) or any(holes_have_parameters(values, parameters)):
        return
    from pipeline.spec.author import complete, problems_of  # noqa: PLC0415 - the checker asks this module

    chosen = {key: parameter.get("default", parameter.get("example")) for key, parameter in parameters.items()}
    for problem in problems_of(complete(kind, name, fill(values, chosen)), name, kind):
        if not problem.is_warning:
            keys = [int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", problem.path)]
            hint = problem.hint or (f"allowed: {problem.allowed}" if problem.allowed else "")
            yield tuple(keys), f"this cannot become a document of kind {kind}: {problem.message}", hint


RULES = (
    InnerRule("E0701", ("values", "parameters"), holes_have_parameters),
    InnerRule("E0702", ("parameters", "values"), parameters_are_used),
    InnerRule("E0703", ("parameters",), parameters_can_be_filled),
    InnerRule("E0704", ("values", "parameters", "for", "name"), document_is_right),
)
