"""Values as YAML that people read: the order of the schema, a comment at each setting, numbers as YAML 1.2 spells them.

What is written here is also read alike by YAML 1.1: `5.0e-5` is a number in both, and `on` stands in quotes.
"""

from __future__ import annotations

import json
import math
import os
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.spec.bundle import bundle_path
from pipeline.spec.document import scalar
from pipeline.spec.schema import Schema

_WIDTH = 120  # columns; a comment that does not fit behind its value stands above it
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./+-]*")  # text that needs no quotes, unless it is one of these words:
_WORDS_OF_YAML_1_1 = {"y", "yes", "n", "no", "on", "off"}


def write_yaml(values: Mapping[str, Any], schema: Schema, *, heading: Iterable[str] = (), comments: bool = True) -> str:
    """A document as the text of its file.

    Args:
        values: mappings with text as keys, lists, texts, numbers, booleans and None. What the schema does not know
            comes after what it knows.
        schema: that of the document.
        heading: lines to put on top, as comments.
        comments: whether each setting gets the description that the schema has of it.

    Raises:
        TypeError: something among the values has no spelling in YAML.
    """
    lines = [f"# {line}".rstrip() for line in heading]
    for name, value, child in _ordered(values, schema):
        if isinstance(value, Mapping) or _is_table(value):
            lines += ["", *(_above(child, "") if comments else ())]
            lines += _entry(name, value, {**child, "description": ""}, "", comments=comments)
        else:
            lines += _entry(name, value, child, "", comments=comments)
    return "\n".join(lines).lstrip("\n") + "\n"


def inline(value: Any) -> str:
    """A value on one line: `null`, `true`, `1.0e-4`, `plain`, `"in quotes"`, `[a, b]`, `{a: 1}`.

    Raises:
        TypeError: it has no spelling in YAML.
    """
    if isinstance(value, list | tuple):
        return f"[{', '.join(inline(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_key(name)}: {inline(item)}' for name, item in value.items())}}}"
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return _number(value)
    raise TypeError(f"{type(value).__name__} {value!r} has no spelling in YAML")


def modeline(target: Path, kind: str) -> list[str]:
    """The comment that tells an editor the schema of a file; nothing when the schemas are not in the same project."""
    bundle = bundle_path(kind)
    if not bundle.is_relative_to(Path.cwd()):
        return []
    return [f"yaml-language-server: $schema={Path(os.path.relpath(bundle, target.resolve().parent)).as_posix()}"]


def _ordered(values: Mapping[str, Any], schema: Schema) -> Iterator[tuple[str, Any, Schema]]:
    known = schema.get("properties", {})
    others = schema.get("additionalProperties")
    for name in [*(name for name in known if name in values), *(name for name in values if name not in known)]:
        yield name, values[name], known.get(name, others if isinstance(others, dict) else {})


def _entry(name: str, value: Any, schema: Schema, indent: str, *, comments: bool) -> list[str]:
    """The lines of `name: value`, with its comment behind it or above it."""
    head, inner = f"{indent}{_key(name)}:", f"{indent}  "
    below: list[str] = []
    if value and isinstance(value, Mapping):
        for key, item, child in _ordered(value, schema):
            below += _entry(key, item, child, inner, comments=comments)
    elif value and isinstance(value, list | tuple) and _is_long(head, value):
        for item in value:
            below += _item(item, inner)
    else:
        head += f" {inline(value)}"
    comment = _comment(schema) if comments else ""
    if not comment:
        return [head, *below]
    if len(head) + len(comment) + 3 <= _WIDTH:
        return [f"{head} # {comment}", *below]
    return [*_above(schema, indent), head, *below]


def _item(value: Any, indent: str) -> list[str]:
    if not (value and isinstance(value, Mapping)):
        return [f"{indent}- {inline(value)}"]
    lines = [line for name, item in value.items() for line in _entry(name, item, {}, f"{indent}  ", comments=False)]
    return [f"{indent}- {lines[0].lstrip()}", *lines[1:]]


def _is_long(head: str, items: Iterable[Any]) -> bool:
    return _is_table(items) or len(head) + len(inline(items)) >= _WIDTH


def _is_table(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value)


def _above(schema: Schema, indent: str) -> list[str]:
    return [f"{indent}# {line}" for line in textwrap.wrap(_comment(schema), _WIDTH - len(indent) - 2)]


def _comment(schema: Schema) -> str:
    """The description, and the choices that it does not name."""
    said: str = schema.get("description", "")
    choices = ["null" if choice is None else str(choice) for choice in schema.get("enum", ())]
    if said and any(not re.search(rf"\b{re.escape(choice)}\b", said, re.IGNORECASE) for choice in choices):
        said = f"{said} One of {', '.join(choices)}."
    return said


def _key(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the key {name!r} is not text")
    return _text(name)


def _text(value: str) -> str:
    plain = _PLAIN.fullmatch(value) and isinstance(scalar(value), str) and value.lower() not in _WORDS_OF_YAML_1_1
    if plain:
        return str(value)
    # A JSON string is one in YAML too, but for characters that YAML wants escaped and JSON does not.
    return "".join(char if char.isprintable() else _escape(char) for char in json.dumps(value, ensure_ascii=False))


def _escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    mantissa, mark, exponent = float.__repr__(value).partition("e")
    if not mark:
        return mantissa
    return f"{mantissa if '.' in mantissa else f'{mantissa}.0'}e{int(exponent):+d}"
