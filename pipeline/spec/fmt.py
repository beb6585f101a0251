"""The one layout of a document: keys in the order of the schema, one spelling of values, comments with their keys.

It is written from values and comments, not from characters: two texts that say the same come out the same, and what
comes out is what comes out of it again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipeline.spec.comments import comments_of
from pipeline.spec.document import Document, Keys, parse_document
from pipeline.spec.load import build_spec
from pipeline.spec.schema import Schema, resolve
from pipeline.spec.write import inline

_WIDTH = 120  # columns; a list that needs more has one item a line
_INDENT = "  "


def formatted(document: Document, text: str) -> str:
    """The text of a document in the one layout.

    Every value and every comment is kept; an alias becomes the value that it repeats.

    Raises:
        SpecError: the document has problems.
    """
    before = build_spec(document, kind=None)
    if document.file.endswith(".json"):
        found = json.dumps(_canonical(document.values, document.schema), indent=2, ensure_ascii=False) + "\n"
    else:
        found = _Writer(document, text).text()
    after = build_spec(parse_document(found.encode(), document.file), kind=None)
    assert after.to_dict() == before.to_dict(), "a layout changes no value"
    return found


class _Writer:
    """Writes one document."""

    def __init__(self, document: Document, text: str) -> None:
        self.values = _canonical(document.values, document.schema)
        self.comments = comments_of(text)

    def text(self) -> str:
        lines = [*self.comments.head, *self._mapping(self.values, (), "")]
        # One empty line is as many as there ever are in a row, and none stands at either end.
        kept = [line for line, before in zip(lines, ["", *lines], strict=False) if line or before]
        return "\n".join(kept).rstrip("\n") + "\n"

    def _mapping(self, values: Mapping[str, Any], keys: Keys, indent: str) -> Iterator[str]:
        apart = False  # whether an empty line must come next: sections stand apart
        for index, (name, value) in enumerate(values.items()):
            here = (*keys, name)
            above = _without_first_empty(self.comments.above[here]) if keys and not index else self.comments.above[here]
            is_section = not keys and isinstance(value, dict) and bool(value)
            yield from [""] if apart or is_section else []
            apart = is_section
            yield from _indented(above, indent)
            yield from self._entry(f"{indent}{inline(name)}:", value, here, indent)
        yield from _indented(self.comments.below[keys], indent)

    def _entry(self, head: str, value: Any, keys: Keys, indent: str) -> Iterator[str]:
        """The lines of a value behind its key (or dash), comment included."""
        beside = f" {self.comments.beside[keys]}" if keys in self.comments.beside else ""
        if isinstance(value, dict) and value:
            yield head + beside
            yield from self._mapping(value, keys, indent + _INDENT)
        elif isinstance(value, list) and value and not self._fits(head, value, keys):
            yield head + beside
            yield from self._items(value, keys, indent + _INDENT)
        elif isinstance(value, str) and _is_block(value):
            yield f"{head} {'|' if value.endswith(chr(10)) else '|-'}{beside}"
            yield from _indented(value.removesuffix("\n").split("\n"), indent + _INDENT)
        else:
            yield f"{head} {inline(value)}{beside}"

    def _fits(self, head: str, items: list[Any], keys: Keys) -> bool:
        """Whether a list can stand on one line."""
        plain = not any(isinstance(item, dict | list) for item in items)
        return plain and len(head) + 1 + len(inline(items)) <= _WIDTH and not self.comments.inside(keys)

    def _items(self, items: Iterable[Any], keys: Keys, indent: str) -> Iterator[str]:
        for index, item in enumerate(items):
            here = (*keys, index)
            above = list(self.comments.above[here])
            yield from _indented(above if index else _without_first_empty(above), indent)
            if isinstance(item, dict) and item:
                yield from self._mapping_item(item, here, indent)
            else:
                yield from self._entry(f"{indent}-", item, here, indent)
        yield from _indented(self.comments.below[keys], indent)

    def _mapping_item(self, item: dict[str, Any], keys: Keys, indent: str) -> Iterator[str]:
        """A mapping behind a dash: its first key stands there, so comments of both go above."""
        first = (*keys, next(iter(item)))
        beside = self.comments.beside.pop(keys, "")
        if beside and first not in self.comments.beside:
            self.comments.beside[first], beside = beside, ""
        yield from _indented([line for line in (beside, *self.comments.above.pop(first, ())) if line], indent)
        lines = list(self._mapping(item, keys, indent + _INDENT))
        yield f"{indent}- {lines[0].removeprefix(indent + _INDENT)}"
        yield from lines[1:]


def _canonical(value: Any, schema: Schema) -> Any:
    """A value with its keys in the order of the schema and each number of the type that the schema names."""
    if isinstance(value, Mapping):
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        free = others if isinstance(others, dict) else {}
        names = [*(name for name in known if name in value), *(name for name in value if name not in known)]
        return {name: _canonical(value[name], known.get(name, free)) for name in names}
    if isinstance(value, list):
        return [_canonical(item, schema.get("items", {})) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    number = resolve(schema, value)
    # Settings whose default is written without a fraction (megabytes, minutes) go without one where they can.
    bare = isinstance(schema.get("default"), int) and float(number).is_integer()
    return int(number) if bare else number


def _is_block(text: str) -> bool:
    """Whether text can stand as a block of lines: several, printable, and none that the block would change."""
    lines = text.removesuffix("\n").split("\n")
    clean = all(line.isprintable() and line == line.rstrip() for line in lines)
    return len(lines) > 1 and clean and bool(lines[0]) and bool(lines[-1]) and not lines[0].startswith(" ")


def _indented(lines: Iterable[str], indent: str) -> Iterator[str]:
    return (f"{indent}{line}" if line else "" for line in lines)


def _without_first_empty(lines: list[str]) -> list[str]:
    return lines[1:] if lines and not lines[0] else lines
