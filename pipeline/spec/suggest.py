"""What was probably meant by a key or a value that the schema does not know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from pipeline.spec.names import NAMES, VALUES
from pipeline.spec.nearest import closest
from pipeline.spec.schema import Schema, branch, experiment_schema, schema_at
from pipeline.spec.words import spelled

if TYPE_CHECKING:
    from pipeline.spec.document import Keys


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A setting or section that exists; `exact` when the key has its very name and only stands in the wrong place."""

    keys: Keys
    exact: bool = False


def suggest_key(name: str, section: Keys, values: Mapping[str, Any]) -> Suggestion | None:
    """What an unknown key was probably meant to be.

    In this order: the same name in another section, another tool's name for a key of this section, a slip of a key of
    this section, another tool's name for a key elsewhere, a slip of a key elsewhere.

    Args:
        name: the unknown key.
        section: the mapping that it stands in.
        values: what else stands there.
    """
    plain = name.lower().replace("-", "_").rpartition(".")[2]
    if homes := _homes().get(plain):
        return Suggestion(homes[0], exact=plain == name)
    foreign = [tuple(target.split(".")) for target in NAMES.get(plain, ())]
    for keys in foreign:
        if keys[:-1] == section:
            return Suggestion(keys)
    if found := closest(plain, branch(schema_at(section), values), taken=values):
        return Suggestion((*section, found))
    if foreign:
        return Suggestion(foreign[0])
    if found := closest(plain, _homes()):
        return Suggestion(_homes()[found][0])
    return None


def suggest_value(path: str, value: Any, choices: list[Any]) -> str | None:
    """The choice that a value was probably meant to be, as YAML spells it."""
    text = spelled(value).strip('"').lower()
    if meant := VALUES.get(path, {}).get(text):
        return meant
    named = {str(choice): choice for choice in choices if choice is not None}
    found = closest(text, named)
    return None if found is None else spelled(named[found])


@cache
def _homes() -> dict[str, list[Keys]]:
    """Every key of the spec → where it stands; sections and settings of all kinds."""
    homes: dict[str, list[Keys]] = {}
    for keys in _every_key(experiment_schema(), ()):
        homes.setdefault(str(keys[-1]), []).append(keys)
    return homes


def _every_key(schema: Schema, prefix: Keys) -> Iterator[Keys]:
    yield from ((*prefix, name) for name in schema["properties"])
    for name, child in schema["properties"].items():
        if "properties" in child:
            yield from _every_key(child, (*prefix, name))
