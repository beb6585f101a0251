"""The text of a migrated document: lines of an earlier YAML file are kept, moved or taken out; the rest is added."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.spec.document import Keys
from pipeline.spec.layout import Piece, layout_of
from pipeline.spec.migrate.translate import FROM_FILE, Fate, Translation
from pipeline.spec.schema import Schema, schema_of
from pipeline.spec.words import spelled
from pipeline.spec.write import inline, write_yaml

_TOP = ""  # the part of a document that stands before its sections
_ADDED = "# as the earlier system had it without saying so"
_INDENT = "  "


def fresh_text(found: Translation, *, heading: Iterable[str] = ()) -> str:
    """The new document written from nothing, in the order of the schema.

    Args:
        found: what is to be written.
        heading: lines to put on top, as comments.
    """
    lines = [*heading, *_losses(found)]
    return write_yaml(found.values, schema_of(found.dialect.kind), heading=lines, comments=False)


def kept_text(found: Translation, text: str) -> str:
    """The new document as an edit of the earlier YAML text: comments, order and untouched lines stay as they are.

    Args:
        found: what is to be written.
        text: the earlier document.
    """
    ending = "\r\n" if "\r\n" in text else "\n"
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[-1] == "":
        lines.pop()
    written = _Rewriter(found, "\n".join(lines) + "\n").lines()
    return ending.join(written) + ending


def _losses(found: Translation) -> list[str]:
    """What was given up on purpose, for the file to remember."""
    return [f"not carried over: {fate.old}: {spelled(fate.value)}" for fate in found.fates if fate.accepted]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Lines of the earlier text that hold one key: a section's own line, or a key with its whole value.

    Attributes:
        first, last: numbers of the lines, from 0.
        keys: the way to the key.
        fates: what became of the keys in it: one, or for a section in brackets those inside it.
        is_section: whether it is the line of a section whose keys have lines of their own.
    """

    first: int
    last: int
    keys: Keys
    fates: tuple[Fate, ...] = ()
    is_section: bool = False


@dataclass(slots=True)
class _Part:
    """A section of the new text, or what stands before all sections."""

    header: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    indent: str = _INDENT


class _Rewriter:
    """Walks the earlier text once, from the top, and sorts its lines into the parts of the new one."""

    def __init__(self, found: Translation, text: str) -> None:
        self.found = found
        self.text = text
        self.old = text.split("\n")[:-1]
        self.starts = [0]
        for line in self.old:
            self.starts.append(self.starts[-1] + len(line) + 1)
        self.pieces = layout_of(text)
        self.marked = any(piece.label for piece in self.pieces.values())
        self.parts: dict[str, _Part] = {_TOP: _Part(indent="")}
        self.moved: dict[str, list[str]] = {}  # lines for a part that stood in another one, with one indentation
        self.pending: list[str] = []  # comments and blank lines that belong to what comes next
        self.done: set[str] = set()  # settings whose lines are written

    def lines(self) -> list[str]:
        """The new text."""
        at, current = 0, _TOP
        top = self._top_lines()
        for chunk in self._chunks():
            self.pending += self.old[at : chunk.first]
            at = chunk.last + 1
            if top:
                self._open(top)
                top = []
            if chunk.is_section:
                current = self._section(chunk, current)
            else:
                self._keys(chunk, current)
        tail = [*self.pending, *self.old[at:]]
        written: list[str] = []
        for name in self._order():
            written += self._part(name)
        return written + tail

    def _order(self) -> list[str]:
        """The parts there are, then those that only have settings without lines, in the order of the schema."""
        new = dict.fromkeys(name.split(".")[0] for name in self.found.settings if "." in name)
        known = list(schema_of(self.found.dialect.kind)["properties"])
        there = [name for name in self.parts if name == _TOP or name in new]
        return [*there, *sorted((name for name in new if name not in self.parts), key=known.index)]

    def _chunks(self) -> Iterator[_Chunk]:
        """The chunks of the text, in its order."""
        fates = {fate.keys: fate for fate in self.found.fates}
        inside: Keys | None = None  # the chunk just given holds everything below this
        for keys, piece in self.pieces.items():
            if piece.key is None or (inside is not None and keys[: len(inside)] == inside):
                continue
            first, last = self._line(piece.key[0]), self._line(max(piece.end - 1, piece.key[1]))
            if keys in fates:
                yield _Chunk(first, last, keys, (fates[keys],))
                inside = keys
            elif piece.style == "block":
                yield _Chunk(first, self._line(piece.key[1]), keys, is_section=True)
            else:
                below = tuple(fate for way, fate in fates.items() if way[: len(keys)] == keys)
                yield _Chunk(first, last, keys, below)
                inside = keys

    def _line(self, at: int) -> int:
        return bisect.bisect_right(self.starts, at) - 1

    def _top_lines(self) -> list[str]:
        self.done |= {"schema_version", "kind"}
        settings = self.found.settings
        lines = [f"# {loss}" for loss in _losses(self.found)]
        lines += [f"{name}: {inline(settings[name])}" for name in ("schema_version", "kind")]
        if self.found.sources["name"].origin != FROM_FILE:
            self.done.add("name")
            lines.append(f"name: {inline(settings['name'])}")
        return lines

    def _open(self, top: list[str]) -> None:
        """Put the first lines of the new text behind the comment on top of the old one."""
        above = self._attached()
        self.parts[_TOP].body += [*self.pending, *top]
        self.pending = above

    def _attached(self) -> list[str]:
        """Take the comments right above the next line out of what is pending."""
        size = 0
        while size < len(self.pending) and self.pending[-size - 1].lstrip().startswith("#"):
            size += 1
        attached = self.pending[len(self.pending) - size :]
        del self.pending[len(self.pending) - size :]
        return attached

    def _section(self, chunk: _Chunk, current: str) -> str:
        """Keep the line of a section that there is under this or another name; returns the part that follows."""
        old = str(chunk.keys[0])
        name = self.found.dialect.sections.get(old, old)
        is_new = any(setting.startswith(f"{name}.") for setting in self.found.settings)
        line = self.old[chunk.first]
        if len(chunk.keys) > 1 or not is_new or name in self.parts:
            self.pending += self._comments(chunk, chunk.first)
            return name if is_new else current
        key = self.pieces[chunk.keys].key
        assert key is not None
        behind = line[key[1] - self.starts[chunk.first] :]
        header = line if name == old else f"{name}{behind}"
        indent = next((self._indent(keys) for keys in self.pieces if keys[:-1] == chunk.keys), _INDENT)
        self.parts[name] = _Part(header=[*self.pending, header], indent=indent)
        self.pending = []
        return name

    def _indent(self, keys: Keys) -> str:
        piece = self.pieces[keys]
        assert piece.key is not None
        first = self._line(piece.key[0])
        return " " * (piece.key[0] - self.starts[first])

    def _keys(self, chunk: _Chunk, current: str) -> None:
        """Keep the lines of a key where they are, move them to another section, or take them out."""
        fate = chunk.fates[0] if len(chunk.fates) == 1 and chunk.fates[0].keys == chunk.keys else None
        section, _, name = fate.new.rpartition(".") if fate else ("", "", "")
        if fate is None or not fate.new or fate.new in self.done or "." in section or not self._has_own_lines(chunk):
            # Its comments stay; a setting that it may have is written with those that have no lines.
            if fate is None or fate.new:
                self.pending += self._comments(chunk, chunk.last)
            return
        self.done.add(fate.new)
        if not _is_same(fate.value, self.found.settings[fate.new]):
            self.pending += self._comments(chunk, chunk.last - 1)  # the one on the last line stays there
        if section == current and section in self.parts:
            part = self.parts[section]
            part.body += [*self.pending, *self._renamed(chunk, fate, name, part.indent)]
            self.pending = []
        else:
            above = [_INDENT + line.lstrip() for line in self._attached()]
            self.moved.setdefault(section, []).extend([*above, *self._renamed(chunk, fate, name, _INDENT)])

    def _has_own_lines(self, chunk: _Chunk) -> bool:
        key = self.pieces[chunk.keys].key
        return not self.marked and key is not None and not self.text[self.starts[chunk.first] : key[0]].strip()

    def _renamed(self, chunk: _Chunk, fate: Fate, name: str, indent: str) -> list[str]:
        """The lines of a key under its new name, with its new value, at another indentation."""
        piece = self.pieces[chunk.keys]
        assert piece.key is not None
        value, start = self.found.settings[fate.new], self.starts[chunk.first]
        last = self.starts[chunk.last] + len(self.old[chunk.last])
        key = self.text[piece.key[0] : piece.key[1]] if fate.keys[-1] == name else name
        between = self.text[piece.key[1] : piece.start]
        body = self.text[piece.start : piece.end] if _is_same(fate.value, value) else inline(value)
        if "\n" in between and body != self.text[piece.start : piece.end]:
            between = ": "
        behind = self.text[piece.end : last]
        first, *others = f"{key}{between}{body}{behind}".split("\n")
        shift = len(indent) - (piece.key[0] - start)
        return [f"{indent}{first}", *(_shifted(line, shift) for line in others)]

    def _comments(self, chunk: _Chunk, last: int) -> list[str]:
        """The comments on the lines of a chunk up to one of them, each as a line of its own."""
        pieces = [piece for keys, piece in self.pieces.items() if keys[: len(chunk.keys)] == chunk.keys]
        found = (self._comment_on(line, pieces) for line in range(chunk.first, last + 1))
        return [comment for comment in found if comment]

    def _comment_on(self, line: int, pieces: list[Piece]) -> str:
        start, end = self.starts[line], self.starts[line] + len(self.old[line])
        if any(piece.style == "scalar" and piece.start < start < piece.end and piece.end > end for piece in pieces):
            return ""  # inside a text of several lines
        ends = [at for piece in pieces for at in _ends(piece) if start <= at <= end]
        found = re.search(r"(?:^|\s)(#.*)$", self.text[max(ends, default=start) : end])
        return found.group(1) if found else ""

    def _part(self, name: str) -> list[str]:
        """The lines of a part: those that were kept, those that came from elsewhere, those that are new."""
        part = self.parts.get(name, _Part(header=["", f"{name}:"]))
        prefix = f"{name}." if name else ""
        fresh = {
            setting: value
            for setting, value in self.found.settings.items()
            if setting not in self.done and (setting.startswith(prefix) if name else "." not in setting)
        }
        lines = [*part.header, *part.body, *_reindented(self.moved.get(name, []), part.indent)]
        # What stands deeper than the section's own keys must not be torn apart.
        roots = {_root(setting) for setting in fresh if self.found.sources[setting].origin == FROM_FILE}
        said = {setting: value for setting, value in fresh.items() if _root(setting) in roots}
        unsaid = {setting: value for setting, value in fresh.items() if _root(setting) not in roots}
        if said:
            lines += self._written(name, said, part.indent)
        if unsaid:
            lines += [f"{part.indent}{_ADDED}", *self._written(name, unsaid, part.indent)]
        return lines

    def _written(self, section: str, settings: Mapping[str, Any], indent: str) -> list[str]:
        """Settings of a section as YAML."""
        tree: dict[str, Any] = {}
        for setting, value in settings.items():
            *above, last = setting.removeprefix(f"{section}.").split(".")
            inner = tree
            for key in above:
                inner = inner.setdefault(key, {})
            inner[last] = value
        schema: Schema = schema_of(self.found.dialect.kind)
        schema = schema["properties"][section] if section else schema
        text = write_yaml(tree, schema, comments=False).rstrip("\n")
        return [f"{indent}{line}" if line else "" for line in text.split("\n")]


def _root(setting: str) -> str:
    """The key of its section that a setting stands under."""
    return ".".join(setting.split(".")[:2])


def _ends(piece: Piece) -> Iterator[int]:
    yield piece.end
    if piece.key:
        yield piece.key[1]


def _is_same(old: Any, new: Any) -> bool:
    return type(old) is type(new) and bool(old == new)


def _shifted(line: str, by: int) -> str:
    if not line.strip():
        return line
    return " " * by + line if by >= 0 else line[min(-by, len(line) - len(line.lstrip())) :]


def _reindented(lines: list[str], indent: str) -> list[str]:
    """Moved lines as the section has them that they were moved to."""
    return [indent + line.removeprefix(_INDENT) if line.strip() else line for line in lines]
