"""Setting values in the text of a spec without touching a character of anything else."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.errors import FoundryError
from pipeline.spec.diagnose import SpecError
from pipeline.spec.document import Document, Keys, dotted, parse_document
from pipeline.spec.layout import Piece, after_line, keys_of, layout_of, line_end, line_start
from pipeline.spec.provenance import require_setting
from pipeline.spec.schema import schema_at
from pipeline.spec.write import inline

_INDENT = "  "


@dataclass(frozen=True, slots=True)
class Assignment:
    """A value for a path.

    Attributes:
        keys: the path.
        value: the value.
        text: the value as it is to be written, on one line.
    """

    keys: Keys
    value: Any
    text: str


def parse_assignment(text: str) -> Assignment:
    """Read `training.learning_rate=1e-3`; what stands behind the `=` is YAML 1.2.

    Raises:
        FoundryError: there is no `=`, or what stands before or behind it cannot be read.
    """
    path, equals, given = text.partition("=")
    if not equals:
        raise FoundryError(f"`{text}` sets nothing", hint="write it like training.learning_rate=1e-3")
    keys, given, head = keys_of(path.strip()), given.strip(), "value: "
    try:
        document = parse_document(f"{head}{given}\n".encode(), path)
        problems = document.problems
    except SpecError as error:
        problems = list(error.problems)
    if problems:
        message = f"the value of `{dotted(keys)}` is not YAML: {problems[0].message}"
        raise FoundryError(message, hint=problems[0].hint)
    if list(document.values) != ["value"]:
        raise FoundryError(f"the value of `{dotted(keys)}` is more than one value", hint="give one value on one line")
    value, piece = document.values["value"], layout_of(head + given)["value",]
    spelled = (head + given)[piece.start : piece.end]
    return Assignment(keys, value, spelled if spelled and "\n" not in spelled else inline(value))


def edit(document: Document, text: str, assignments: Iterable[Assignment]) -> str:
    """The text of a document with some values set.

    Lines that hold none of these values stay as they are, byte for byte. A setting that is not in the text yet goes
    to the place that its schema gives it among the others. A section that is set to a mapping keeps the lines of the
    keys that stay.

    Args:
        document: the parsed text.
        text: the text itself.
        assignments: what to set, in this order.

    Raises:
        FoundryError: a path is not one of the document's schema, or cannot be set in this text.
    """
    wanted = copy.deepcopy(document.values)
    for each in assignments:
        require_setting(each.keys, document.schema, document.values)
        text = _Editor(text, document).set(each)
        _put(wanted, each.keys, each.value)
        _require_values(text, wanted, document.file, each)
    return text


def _put(values: Any, keys: Keys, value: Any) -> None:
    for key in keys[:-1]:
        if isinstance(values, dict) and not isinstance(values.get(key), dict | list):
            values[key] = {}
        values = values[key]
    values[keys[-1]] = copy.deepcopy(value)


def _require_values(text: str, wanted: Any, file: str, cause: Assignment) -> None:
    """Refuse a text that would not say exactly what was asked for: better no edit than a wrong one."""
    try:
        document = parse_document(text.encode(), file)
        right = document.values == wanted and not document.problems
    except SpecError:
        right = False
    if not right:
        message = f"`{dotted(cause.keys)}` cannot be set here without changing something else"
        raise FoundryError(message, where=file, hint="edit the file by hand")


class _Editor:
    """One edit of one text."""

    def __init__(self, text: str, document: Document) -> None:
        self.schema = document.schema
        self.file = document.file
        self.is_json = document.file.endswith(".json")
        self.newline = "\r\n" if "\r\n" in text else "\n"
        self._become(text)

    def _become(self, text: str) -> None:
        self.text = text
        self.pieces = layout_of(text.replace("\t", " ") if self.is_json else text)  # as `parse_document` reads JSON

    def set(self, each: Assignment) -> str:
        """The text with the value set."""
        keys, value = each.keys, each.value
        for depth in range(1, len(keys)):
            self._require_no_alias_at(keys[:depth])
        piece = self.pieces.get(keys)
        if piece is None:
            return self._add(keys, value, each.text)
        self._require_no_alias_of(keys)
        if piece.event == "mapping" and piece.style == "block" and isinstance(value, dict) and value:
            return self._merge(keys, value)
        owner = self.pieces[keys[:-1]]
        # What is plain text on a line of its own may end at a comma between brackets.
        plain = owner.style == "block" and not self.is_json
        return self._replace(piece, each.text if plain else self._inline(value))

    def _inline(self, value: Any) -> str:
        return json.dumps(value, ensure_ascii=False) if self.is_json else inline(value)

    def _require_no_alias_at(self, keys: Keys) -> None:
        piece = self.pieces.get(keys)
        if piece is not None and piece.style == "alias":
            message = f"`{dotted(keys)}` repeats what is marked &{piece.label}"
            raise FoundryError(message, where=self.file, hint="write its values out there, then set this one")

    def _require_no_alias_of(self, keys: Keys) -> None:
        """Refuse to replace what is repeated elsewhere: the other place would change or break."""
        size = len(keys)
        marked = {piece.label for path, piece in self.pieces.items() if path[:size] == keys and piece.style != "alias"}
        for path, piece in self.pieces.items():
            if piece.style == "alias" and piece.label in marked and path[:size] != keys:
                message = f"`{dotted(path)}` repeats the value of `{dotted(keys)}`, which is marked &{piece.label}"
                raise FoundryError(message, where=self.file, hint=f"give `{dotted(path)}` a value of its own first")

    def _inside(self, owner: Keys) -> dict[Any, Piece]:
        """The pieces directly in a collection."""
        return {path[-1]: piece for path, piece in self.pieces.items() if path and path[:-1] == owner}

    def _merge(self, keys: Keys, values: dict[str, Any]) -> str:
        """Give a section these keys and no others; what stays keeps its line and its comment."""
        present = list(self._inside(keys))
        for name, value in values.items():
            self._become(self.set(Assignment((*keys, name), value, inline(value))))
        for name in present:
            if name not in values:
                self._require_no_alias_of((*keys, name))
                self._become(self._remove(self.pieces[*keys, name]))
        return self.text

    def _remove(self, piece: Piece) -> str:
        assert piece.key is not None
        return self.text[: line_start(self.text, piece.key[0])] + self.text[after_line(self.text, piece.end) :]

    def _replace(self, piece: Piece, spelled: str) -> str:
        text = self.text
        colon = text.find(":", piece.key[1]) + 1 if piece.key else piece.start
        if "\n" not in text[colon : piece.start]:
            gap = " " if piece.start == piece.end and text[piece.start - 1] in ":-" else ""
            return f"{text[: piece.start]}{gap}{spelled}{text[piece.end :]}"
        # The value starts below its key: the new one stands beside it, before the comment if there is one.
        return f"{text[:colon]} {spelled}{text[colon : line_end(text, colon)]}{text[line_end(text, piece.end) :]}"

    def _add(self, keys: Keys, value: Any, written: str) -> str:
        depth = next(depth for depth in range(len(keys) - 1, -1, -1) if keys[:depth] in self.pieces)
        owner, missing = keys[:depth], keys[depth:]
        if index := [key for key in missing if isinstance(key, int)]:
            hint = f"set the whole list: {dotted(keys[: keys.index(index[0])])}=[…]"
            raise FoundryError(f"`{dotted(keys)}` is not in the list", where=self.file, hint=hint)
        home, inside = self.pieces[owner], self._inside(owner)
        if home.event == "mapping" and home.style == "block":
            return self._add_lines(missing, written, inside, self._before(owner, missing[0], inside))
        nested = value
        for key in reversed(missing[1:]):
            nested = {key: nested}
        if home.event != "mapping" or not inside:
            return self._replace(home, self._inline({missing[0]: nested}))
        entry = self._inline({missing[0]: nested})[1:-1]
        return self._add_between(entry, inside, self._before(owner, missing[0], inside))

    def _before(self, owner: Keys, name: str, inside: dict[Any, Piece]) -> str | None:
        """The key behind which a new one goes: the nearest of those that the schema has before it."""
        order = list(schema_at(owner, self.schema).get("properties", ()))
        if name not in order:
            return str(next(reversed(inside)))
        earlier: list[str] = [key for key in inside if key in order[: order.index(name)]]
        return max(earlier, key=order.index, default=None)

    def _add_between(self, entry: str, inside: dict[Any, Piece], before: str | None) -> str:
        """Add an entry to a mapping in brackets, on a line of its own where the others have that."""
        text = self.text
        piece = inside[before] if before else next(iter(inside.values()))
        assert piece.key is not None
        indent = text[line_start(text, piece.key[0]) : piece.key[0]]
        gap = " " if indent.strip() or not line_start(text, piece.key[0]) else self.newline + indent
        if before:
            return f"{text[: piece.end]},{gap}{entry}{text[piece.end :]}"
        return f"{text[: piece.key[0]]}{entry},{gap}{text[piece.key[0] :]}"

    def _add_lines(self, missing: Keys, written: str, inside: dict[Any, Piece], before: str | None) -> str:
        """Add a setting to a section, and the sections between them if they are missing."""
        text = self.text
        first = next(iter(inside.values()))
        assert first.key is not None
        indent = text[line_start(text, first.key[0]) : first.key[0]]
        if indent.strip() and before is None:  # the first key of an item stands behind its dash
            before = next(iter(inside))
        indent = " " * len(indent)
        lines = [f"{indent}{_INDENT * depth}{inline(key)}:" for depth, key in enumerate(missing)]
        lines[-1] += f" {written}"
        if before is None:
            at = self._above(first, indent)
        else:
            at = self._below(inside[before], indent)
            if len(missing) > 1 and not indent and f"{self.newline}{self.newline}" in text:
                lines.insert(0, "")  # sections of this file stand apart
        if at and text[at - 1] != "\n":
            text, at = text + self.newline, at + len(self.newline)
        return text[:at] + "".join(f"{line}{self.newline}" for line in lines) + text[at:]

    def _above(self, piece: Piece, indent: str) -> int:
        """Where the line of an entry starts, or that of the comment right above it."""
        assert piece.key is not None
        at = line_start(self.text, piece.key[0])
        while indent and at and self.text[line_start(self.text, at - 1) : at].lstrip().startswith("#"):
            at = line_start(self.text, at - 1)
        return at

    def _below(self, piece: Piece, indent: str) -> int:
        """Where the line after an entry starts, and after comments that belong inside it."""
        at = after_line(self.text, piece.end)
        while self.text[at:].startswith(f"{indent} ") and self.text[at:].lstrip(" ").startswith("#"):
            at = after_line(self.text, at)
        return at
