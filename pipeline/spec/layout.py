"""Where each value of a YAML text stands, to the character: what edits and the formatter go by."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import yaml

from pipeline.errors import FoundryError
from pipeline.spec.document import Keys

_PATH = re.compile(r"[^.\[\]=]+(?:\[\d+\])*(?:\.[^.\[\]=]+(?:\[\d+\])*)*")


@dataclass(frozen=True, slots=True)
class Piece:
    """A value in a text; offsets count characters from 0.

    Attributes:
        start: its first character, an anchor included.
        end: the one after its last, without the line ends after a block of text.
        key: where its key starts and ends, when it is an entry of a mapping.
        style: `scalar`, `block` (a collection by indentation), `flow` (one in brackets) or `alias`.
        event: `scalar`, `mapping`, `sequence` or `alias`.
        label: the anchor that it is marked with, or the one that an alias repeats.
    """

    start: int
    end: int
    key: tuple[int, int] | None
    style: str
    event: str
    label: str | None = None


def layout_of(text: str) -> dict[Keys, Piece]:
    """Path → piece, in the order of the text, for all that is written in it; below an alias nothing is.

    The text is one that `parse_document` takes without problems.
    """
    reader = _Reader(text)
    reader.read()
    return reader.pieces


def keys_of(path: str) -> Keys:
    """`dataset.source.members[0]` as `("dataset", "source", "members", 0)`.

    Raises:
        FoundryError: it is no such path.
    """
    if not _PATH.fullmatch(path):
        hint = "write it like training.learning_rate or dataset.source.members[0]"
        raise FoundryError(f"`{path}` is not the path of a setting", hint=hint)
    parts = re.findall(r"\[(\d+)\]|([^.\[\]]+)", path)
    return tuple(int(index) if index else name for index, name in parts)


def line_start(text: str, at: int) -> int:
    """The offset at which the line around `at` starts."""
    return text.rfind("\n", 0, at) + 1


def line_end(text: str, at: int) -> int:
    """The offset of the line end at or after `at`, which may be that of the text."""
    end = text.find("\n", at)
    if end < 0:
        return len(text)
    return end - 1 if end > at and text[end - 1] == "\r" else end


def after_line(text: str, at: int) -> int:
    """The offset at which the line after the one around `at` starts."""
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1


class _Reader:
    """Walks the parser's events once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.events: Iterator[Any] = iter(yaml.parse(text, yaml.SafeLoader))
        self.pieces: dict[Keys, Piece] = {}

    def read(self) -> None:
        for event in self.events:
            if isinstance(event, yaml.NodeEvent):
                self._value(event, (), None)

    def _value(self, event: Any, keys: Keys, key: tuple[int, int] | None) -> Piece:
        """Read one value; its own piece is entered before those inside it."""
        start, end, pieces = event.start_mark.index, event.end_mark.index, self.pieces
        if isinstance(event, yaml.AliasEvent):
            pieces[keys] = Piece(start, end, key, "alias", "alias", event.anchor)
        elif isinstance(event, yaml.ScalarEvent):
            body = self.text[start:end]
            size = len(body.rstrip()) if event.style in ("|", ">") else len(body)
            pieces[keys] = Piece(start, start + size, key, "scalar", "scalar", event.anchor)
        else:
            kind = "mapping" if isinstance(event, yaml.MappingStartEvent) else "sequence"
            style = "flow" if event.flow_style else "block"
            pieces[keys] = Piece(start, end, key, style, kind, event.anchor)
            closed, last = self._inside(keys, kind)
            # The parser notices the end of a block at what follows it; the block ends where its last value does.
            pieces[keys] = replace(pieces[keys], end=closed if style == "flow" else last)
        return pieces[keys]

    def _inside(self, keys: Keys, kind: str) -> tuple[int, int]:
        """Read what a collection holds; returns where the parser saw its end, and where its last value ends."""
        count, last = 0, 0
        for event in self.events:
            start, end = event.start_mark.index, event.end_mark.index
            if isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                return end, last
            if kind == "sequence":
                piece = self._value(event, (*keys, count), None)
            else:
                piece = self._value(next(self.events), (*keys, event.value), (start, end))
            count, last = count + 1, piece.end
        raise AssertionError("a collection without an end")
