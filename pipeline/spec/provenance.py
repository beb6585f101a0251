"""What can be said about one setting of a spec: its value, where that came from, what it means and who cares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.errors import FoundryError
from pipeline.spec.diagnose import CODES
from pipeline.spec.difference import EFFECTS
from pipeline.spec.document import Document, Keys, Place, dotted
from pipeline.spec.lock import value_of
from pipeline.spec.rules import RULES, UNREAD, UNSUPPORTED
from pipeline.spec.schema import Schema, is_leaf, resolve, schema_at
from pipeline.spec.spec import Spec
from pipeline.spec.suggest import suggest_key
from pipeline.spec.words import expected


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from.

    Attributes:
        kind: `file`: it is written there; `alias`: it is written where the alias points; `default`: it is written
            nowhere, and the schema says it; `filled in`: it is written nowhere, and a preset leaves it to the
            corpus that needs no files.
        where: `file:line:column` of the value; empty when it is written nowhere.
        named: `file:line:column` of the alias that repeats it; empty without one.
    """

    kind: str
    where: str = ""
    named: str = ""

    def __str__(self) -> str:
        if self.kind == "default":
            return "default of the schema"
        if self.kind == "filled in":
            return "filled in where the preset says nothing"
        return f"{self.where}, repeated by an alias at {self.named}" if self.kind == "alias" else self.where


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is to say about a setting.

    Attributes:
        path: the dotted setting.
        value: its resolved value.
        written: a scalar as the file writes it, without quotes; empty for anything else.
        origin: where the value came from.
        schema: what the schema says of it.
        idle: why it has no effect at present; empty when it has one.
        rules: a sentence for each rule that looks at it.
    """

    path: str
    value: Any
    written: str
    origin: Origin
    schema: Schema
    idle: str
    rules: tuple[str, ...]

    @property
    def takes(self) -> str:
        """Its type, range and choices in words."""
        return expected(self.schema)

    @property
    def effect(self) -> str:
        """What changing it changes; a setting that no schema marks changes the result."""
        return EFFECTS[self.schema.get("x-effect", "result")]


def facts(spec: Spec, document: Document, path: str) -> Facts:
    """What there is to say about a setting that the spec has."""
    keys = tuple(path.split("."))
    idle = next(_reasons_for_idleness(spec, path), "")
    schema = schema_at(keys, document.schema)
    rules = (*_rules_on(spec, path), *(f"W0101, it {row['message']}" for row in schema.get("x-warn", ())))
    value, origin = value_of(spec, path), origin_of(document, keys)
    if origin.kind == "default" and ("default" not in schema or value != resolve(schema, schema["default"])):
        origin = Origin("filled in")
    return Facts(path, value, document.texts.get(keys, ""), origin, schema, idle, rules)


def origin_of(document: Document, keys: Keys) -> Origin:
    """Where the value at a path came from."""
    if keys not in document.places:
        return Origin("default")
    value = document.places[keys]
    for depth in range(1, len(keys) + 1):
        key, place = document.keys.get(keys[:depth]), document.places[keys[:depth]]
        if key is not None and (place.line, place.column) < (key.line, key.column):  # a value stands behind its key
            return Origin("alias", _where(document, value), _where(document, key))
    return Origin("file", _where(document, value))


def require_setting(keys: Keys, schema: Schema, values: Any) -> None:
    """Refuse a path that a kind of document does not have, and say which one was probably meant.

    Args:
        keys: the path.
        schema: that of the whole document.
        values: what stands in the document.

    Raises:
        FoundryError: the schema knows nothing there.
    """
    for depth, key in enumerate(keys):
        owner = schema_at(keys[:depth], schema)
        beside = values if isinstance(values, dict) else {}
        try:
            schema_at((key,), owner)
        except KeyError:
            raise FoundryError(
                f"`{dotted(keys)}` is not a setting: {_no_such(keys[:depth], key)}",
                hint=_meant(keys, depth, schema, beside),
            ) from None
        values = beside.get(key)


def _no_such(owner: Keys, key: Any) -> str:
    here = f"`{dotted(owner)}`" if owner else "the top level"
    return f"{here} has no key `{key}`" if isinstance(key, str) else f"{here} is no list"


def _meant(keys: Keys, depth: int, schema: Schema, beside: dict[str, Any]) -> str:
    owner = schema_at(keys[:depth], schema)
    if is_leaf(owner) or not isinstance(keys[depth], str):
        return f"`{dotted(keys[:depth])}` takes {expected(owner)}" if is_leaf(owner) and "type" in owner else ""
    found = suggest_key(keys[depth], keys[:depth], beside, schema)
    if found is None:
        return f"its keys are {', '.join(owner['properties'])}"
    rest = keys[depth + 1 :]
    try:
        schema_at((*found.keys, *rest), schema)
    except KeyError:
        rest = ()
    return f"did you mean `{dotted((*found.keys, *rest))}`?"


def _where(document: Document, place: Place) -> str:
    return f"{document.file}:{place.line}:{place.column}"


def _reasons_for_idleness(spec: Spec, path: str) -> Iterator[str]:
    known = set(spec.leaves())
    for row in UNREAD.get(spec.kind, ()):
        if row.setting == path and row.reads in known and row.when(value_of(spec, row.reads)):
            yield f"{row.why} (see {row.reads})"


def _rules_on(spec: Spec, path: str) -> Iterator[str]:
    for rule in RULES.get(spec.kind, ()):
        if path in rule.reads:
            others = [name for name in rule.reads if name != path]
            yield f"{rule.code}, {CODES[rule.code]}" + (f" (with {', '.join(others)})" if others else "")
    for row in UNREAD.get(spec.kind, ()):
        if row.setting == path:
            yield f"W0102, {CODES['W0102']}: depends on {row.reads}"
        elif row.reads == path:
            yield f"W0102, {CODES['W0102']}: can make {row.setting} idle"
    for lack in UNSUPPORTED.get(spec.kind, ()):
        if lack.setting == path:
            yield f"W0103, {CODES['W0103']}: {lack.why}"
