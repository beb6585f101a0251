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
            word = _list(schema)
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


def _list(schema: Schema) -> str:
    """`a list of 1 or more numbers above 0`, `a list of up to 3 of onnx, torchscript or pytorch`."""
    count = _count(schema.get("minItems", 0), schema.get("maxItems"))
    items = expected(schema.get("items", {}))
    one = next((one for one in _MANY if items.startswith(one)), "")
    if one:
        return " ".join(filter(None, ("a list of", count, f"{_MANY[one]}{items.removeprefix(one)}")))
    if items:
        return f"a list of {f'{count} of ' if count else ''}{items}"
    return f"a list of {count} values" if count else "a list"


def _count(low: int, high: int | None) -> str:
    if low and high:
        return str(low) if low == high else f"{low} to {high}"
    return f"{low} or more" if low else f"up to {high}" if high else ""


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
