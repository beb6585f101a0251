"""What a value of the wrong type would be, written right."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.spec.document import Keys, dotted, scalar
from pipeline.spec.schema import Schema
from pipeline.spec.suggest import suggest_value
from pipeline.spec.words import kinds_of, spelled

_TRUE = ("yes", "on", "y")  # YAML 1.1 took these for booleans, YAML 1.2 takes them for text
_FALSE = ("no", "off", "n")
_NONE = ("none", "nil", "nan", "")


def as_value(
    schema: Schema, value: Any, text: str, *, keys: Keys, kind: str, fits: Callable[[Any], bool]
) -> tuple[str, str]:
    """The code and the hint for a value of the wrong type.

    Args:
        schema: what the value misses.
        value: what was written.
        text: as it stands in the file, without quotes.
        keys: the way to it.
        kind: the kind of document.
        fits: whether another value would be right.
    """
    kinds = kinds_of(schema)
    if "enum" in schema and text not in schema["enum"] and (meant := meant_choice(keys, value, schema["enum"], kind)):
        return "E0301", f"did you mean `{meant}`?"
    if isinstance(value, str) and (found := _as_number_or_word(value, kinds, fits)):
        return found
    if "string" in kinds and fits(text):
        return "E0301", f'put it in quotes: "{text}"'
    if "array" in kinds and not isinstance(value, list | dict) and value is not None:
        return "E0301", f"write a list: [{text}]"
    if value is None and "default" in schema:
        return "E0301", f"remove the line to take the default, {spelled(schema['default'])}"
    return "E0301", ""


def as_section(schema: Schema, value: Any, keys: Keys, kind: str) -> str:
    """The hint for a section that is no mapping: `model: gpt2`, a list, a key without a space behind its colon."""
    if isinstance(value, list):
        return "a section holds keys, not items: take the `-` or the brackets away"
    if isinstance(value, str) and re.match(r"[A-Za-z_]\w*:\S", value):
        return "put a space after the `:`"
    for name, child in schema.get("properties", {}).items() if isinstance(value, str) else ():
        choices = [*child.get("enum", ()), *child.get("items", {}).get("enum", ())]
        meant = value if value in choices else meant_choice((*keys, name), value, choices, kind)
        if meant is not None:
            shown = f"[{meant}]" if "array" in kinds_of(child) else meant
            return f"write `{name}: {shown}` below it, indented"
    return "add its keys, indented" if schema.get("required") else "add its keys, indented, or remove it"


def meant_choice(keys: Keys, value: Any, choices: list[Any], kind: str) -> str | None:
    """The choice that a value at a place was probably meant to be."""
    path = dotted(tuple(key for key in keys if not isinstance(key, int)))
    return suggest_value(path, value, choices, kind)


def _as_number_or_word(text: str, kinds: list[str], fits: Callable[[Any], bool]) -> tuple[str, str] | None:
    meant, word = scalar(text), text.strip().lower()
    if not isinstance(meant, str) and fits(meant):
        return "E0302", f"take the quotes away: {text}"
    if "boolean" in kinds and word in _TRUE + _FALSE:
        return "E0301", f"write {'true' if word in _TRUE else 'false'}"
    if "null" in kinds and word in _NONE:
        return "E0301", "write null"
    plain = next((plain for plain in _plain_numbers(text) if plain != text and fits(scalar(plain))), None)
    return ("E0301", f"write {plain}") if plain else None


def _plain_numbers(text: str) -> Iterator[str]:
    """A number as it might be meant: `1_000`, `1,000`, `32,`, `1,5` and `10%` without what YAML does not know."""
    yield re.sub(r"(?<=\d)[_, ](?=\d{3})", "", text)
    yield text.rstrip(" ,;")
    yield text.replace(",", ".")
    if share := re.fullmatch(r"(\d+(?:\.\d+)?) ?%", text):
        yield f"{float(share[1]) / 100:g}"
