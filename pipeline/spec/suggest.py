"""What was probably meant by a key or a value that the schema does not know."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.spec.kind_names import NAMES_OF_KINDS, VALUES_OF_KINDS
from pipeline.spec.names import NAMES, VALUES
from pipeline.spec.nearest import closest
from pipeline.spec.schema import EXPERIMENT, Schema, branch, schema_at, schema_of
from pipeline.spec.words import spelled

if TYPE_CHECKING:
    from pipeline.spec.document import Keys

_MOST_MEANINGS = 3  # of another tool's name, for it to say something outside the sections that it is used in


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A setting or section that exists; `exact` when the key has its very name and only stands in the wrong place."""

    keys: Keys
    exact: bool = False


def suggest_key(
    name: str,
    section: Keys,
    values: Mapping[str, Any],
    schema: Schema | None = None,
    given: Container[Keys] = (),
) -> Suggestion | None:
    """What an unknown key was probably meant to be.

    In this order: the same name in another section that misses it, another tool's name for a key of this section, the
    same name in another section, another tool's name for a key elsewhere, a slip of a key of this section, the same
    name deeper inside a section, a slip of a key elsewhere.

    Args:
        name: the unknown key.
        section: the mapping that it stands in.
        values: what else stands there.
        schema: that of the whole document (default: an experiment).
        given: the paths that the document has: of several homes of a name, one that misses it is meant.
    """
    return next(_guesses(name, section, values, schema or schema_of(), given), None)


def suggest_value(path: str, value: Any, choices: list[Any], kind: str = EXPERIMENT) -> str | None:
    """The choice that a value was probably meant to be, as YAML spells it.

    Args:
        path: the dotted setting, without numbers of items.
        value: what was written.
        choices: what can be written.
        kind: the kind of document.
    """
    text = spelled(value).strip('"').lower()
    path = re.sub(r"^triggers(\.triggers)+", "triggers", path)  # a policy's nested triggers are like the outer ones
    if meant := VALUES_OF_KINDS.get(kind, VALUES).get(path, {}).get(text):
        return meant
    named = {str(choice): choice for choice in choices if choice is not None}
    found = closest(text, named)
    return None if found is None else spelled(named[found])


def _guesses(
    name: str, section: Keys, values: Mapping[str, Any], schema: Schema, given: Container[Keys]
) -> Iterator[Suggestion]:
    plain = name.lower().replace("-", "_").rpartition(".")[2]
    homes, here = _homes(schema), branch(schema_at(section, schema), values)
    kind = schema["properties"]["kind"]["const"]
    if section and section not in homes.get(str(section[-1]), ()):
        yield from _guesses_in_an_item(plain, section, here, kind)
        return
    likely = sorted(homes.get(plain, ()), key=lambda keys: keys in given)
    same = [Suggestion(keys, exact=plain == name) for keys in likely]
    # Other tools' names lead to settings of an experiment, which may stand deeper in documents of other kinds.
    targets = (*NAMES_OF_KINDS.get(kind, {}).get(plain, ()), *NAMES.get(plain, ()))
    foreign = [
        Suggestion(keys)
        for target in targets
        for keys in homes.get(target.rpartition(".")[2], ())
        if ".".join(keys).endswith(target)
    ]
    # Names of sections and of settings directly in one are unique; those deeper inside (`format`, `url`) are common.
    direct = 3 if section[:1] == ("values",) else 2  # a preset has its sections under `values`
    homely = [found for found in same if len(found.keys) <= direct]
    yield from (found for found in homely if found.keys not in given)
    yield from (found for found in foreign if found.keys[:-1] == section and found.keys[-1] in here)
    yield from homely
    if len(foreign) <= _MOST_MEANINGS:
        yield from foreign
    if slip := closest(plain, here, taken=values):
        yield Suggestion((*section, slip))
    yield from same
    if slip := closest(plain, homes):
        yield Suggestion(homes[slip][0])


def _guesses_in_an_item(plain: str, section: Keys, here: list[str], kind: str) -> Iterator[Suggestion]:
    """In an item of a list or a mapping under a free name, keys from elsewhere are hardly meant."""
    foreign = {target.rpartition(".")[2] for target in NAMES_OF_KINDS.get(kind, {}).get(plain, ())}
    yield from (Suggestion((*section, name)) for name in here if name in foreign)
    if slip := closest(plain, here):
        yield Suggestion((*section, slip))


def _homes(schema: Schema) -> dict[str, list[Keys]]:
    """Every key of a document → where it stands; sections and settings of all kinds."""
    homes: dict[str, list[Keys]] = {}
    for keys in _every_key(schema, ()):
        homes.setdefault(str(keys[-1]), []).append(keys)
    return homes


def _every_key(schema: Schema, prefix: Keys) -> Iterator[Keys]:
    yield from ((*prefix, name) for name in schema["properties"])
    for name, child in schema["properties"].items():
        if "properties" in child:
            yield from _every_key(child, (*prefix, name))
