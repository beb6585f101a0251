"""Schemas and values in the words of someone who writes YAML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.spec.schema import Schema

_ONE = {
    "number": "a number",
    "integer": "a whole number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}
_MANY = {
    "a number": "numbers",
    "a whole number": "whole numbers",
    "text": "texts",
    "a list": "lists",
    "a mapping": "mappings",
}
_LONGEST = 60  # characters of a value that a message repeats


def kinds_of(schema: Schema) -> list[str]:
    """The JSON types that a schema takes."""
    kinds = schema.get("type", [])
    return [kinds] if isinstance(kinds, str) else list(kinds)


def expected(schema: Schema) -> str:
    """What a schema takes: `a whole number from 1 to 1024, or null`."""
    if "const" in schema:
        return spelled(schema["const"])
    if "enum" in schema:
        return listed([spelled(choice) for choice in schema["enum"]])
    words = []
    for kind in kinds_of(schema):
        word = _ONE[kind]
        if kind in ("number", "integer"):
            word += _range(schema)
        elif kind == "string":
            word += _size(schema, "Length", "character")
        elif kind == "array":
            items = expected(schema.get("items", {}))
            word = f"a list of {_several(items)}" if items else word
            word += _size(schema, "Items", "item")
        elif kind == "object":
            word += _size(schema, "Properties", "key")
        words.append(word)
    return ", or ".join(words)


def describe(value: Any) -> str:
    """What a value is: `the text "four"`, `a list`, `null`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return spelled(value)
    if isinstance(value, int | float):
        return f"the number {spelled(value)}"
    if isinstance(value, str):
        return f"the text {spelled(value)}"
    return "a list" if isinstance(value, list) else "a mapping"


def spelled(value: Any) -> str:
    """A value as YAML spells it, cut short when it is long."""
    text = value if isinstance(value, str) and value.isidentifier() else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def listed(words: Sequence[str], joiner: str = "or") -> str:
    """`a`, `a or b`, `a, b or c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {joiner} {words[-1]}"


def _several(items: str) -> str:
    """`a number above 0` as `numbers above 0`."""
    one = next((one for one in _MANY if items.startswith(one)), "")
    return f"{_MANY[one]}{items.removeprefix(one)}" if one else items


def _range(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    parts = []
    if low is not None:
        parts.append(f"at least {low}")
    if above is not None:
        parts.append(f"above {above}")
    if high is not None:
        parts.append(f"at most {high}")
    if below is not None:
        parts.append(f"below {below}")
    return f" {' and '.join(parts)}" if parts else ""


def _size(schema: Schema, what: str, unit: str) -> str:
    low, high = schema.get(f"min{what}"), schema.get(f"max{what}")
    if low is not None and high is not None:
        return f" with {low} to {high} {unit}s"
    if high is not None:
        return f" with at most {high} {unit}s"
    return f" with at least {low} {unit}{'' if low == 1 else 's'}" if low is not None else ""
