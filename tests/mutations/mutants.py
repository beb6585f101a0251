"""Every key of a spec, broken in every way a hand breaks it: the mutants of a file, and where their errors belong.

Mutants are made from the text, so that positions are checked against what is on the screen. PyYAML's `compose` says
where keys and values stand; the checker under test has a reader of its own.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from pipeline.paths import SPECS
from pipeline.spec.document import Keys, dotted, parse_document, value_at
from pipeline.spec.kind_names import NAMES_OF_KINDS
from pipeline.spec.names import NAMES
from pipeline.spec.schema import EXPERIMENT, Schema, schema_at, schema_of

OPERATORS = ("rename", "typo", "delete", "retype", "range", "misplace", "duplicate")
_LETTERS = "abcdefghijklmnopqrstuvwxyz_"
_PLACES = 3  # sections that a key is put into, besides the top level
_SLIPS = 2  # typos of each kind for a key
_STRANGE = "colour"  # what a key without a name in another tool is called: a word that no schema knows


@dataclass(frozen=True, slots=True)
class Mutant:
    """A file with one mistake in it.

    Attributes:
        file: the shipped spec, below specs/.
        operator: one of `OPERATORS`.
        path: the key that was broken, dotted.
        change: what was done to it, in a few words; unique for file, operator and path.
        text: the whole file with the mistake.
        lines: where an error can stand: the line of the broken key; the section that lost a key which it needs.
        allowed: whether the schema takes the change by itself: a default steps in, the type is one of several, names
            are free. A rule between settings can still object.
        meant: what should be suggested first; empty where there is no one right answer.
        home: the dotted mapping that a misplaced key should be sent back to; None for other operators.
    """

    file: str
    operator: str
    path: str
    change: str
    text: str
    lines: tuple[int, ...]
    allowed: bool
    meant: str = ""
    home: str | None = None

    @property
    def name(self) -> str:
        """One line that tells it from all others."""
        return f"{self.file} {self.operator} {self.path}: {self.change}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A key with its value, as they stand in the text; positions count characters from the start of the file."""

    keys: Keys
    name: str
    start: int  # of the key
    colon: int  # behind the key
    end: int  # behind the last character of the value, without comments
    column: int  # of the key, from 0
    flow: bool  # whether it stands between braces
    above: int  # where the mapping that holds it starts: its key, its list item, or 0


@dataclass(frozen=True, slots=True)
class _Target:
    """A mapping that a key can be put into by mistake: at its end, in its column."""

    keys: Keys
    column: int
    end: int


def shipped() -> list[Path]:
    """Every spec that is shipped."""
    return sorted(SPECS.rglob("*.yaml"))


class Source:
    """One shipped spec, and all of its mutants."""

    def __init__(self, path: Path) -> None:
        self.file = path.relative_to(SPECS).as_posix()
        self.text = path.read_text(encoding="utf-8")
        self.document = parse_document(self.text.encode(), self.file)
        self.entries: list[Entry] = []
        self._targets: list[_Target] = []
        self._walk(yaml.compose(self.text, Loader=yaml.SafeLoader), (), 0)
        if {entry.keys for entry in self.entries} != set(self.document.keys):
            raise ValueError(f"{self.file}: the checker and PyYAML see other keys")

    def mutants(self) -> Iterator[Mutant]:
        """All mutants, key by key; the same ones each time, whatever other files there are."""
        for entry in self.entries:
            for operator in OPERATORS:
                yield from _OPERATORS[operator](self, entry)

    def schema(self, keys: Keys) -> Schema:
        """What is said of a path; for the values of a template, by the schema of what it becomes."""
        kind, inner = self.meaning(keys)
        try:
            return schema_at(inner, schema_of(kind))
        except KeyError:
            return {}  # what stands in a mapping of free content

    def knows(self, keys: Keys) -> dict[str, Schema] | None:
        """The keys that a mapping can take with their schemas; None where names are free."""
        return self.schema(keys).get("properties")

    def is_plain(self, keys: Keys) -> bool:
        """Whether a path goes through sections alone: no items of lists, no free names, no templates."""
        return (
            all(keys[at] in (self.knows(keys[:at]) or ()) for at in range(len(keys))) and self.meaning(keys)[1] == keys
        )

    def names_elsewhere(self, keys: Keys) -> list[str]:
        """What other tools call a setting or section."""
        kind, inner = self.meaning(keys)
        named = [
            name for at, name in enumerate(inner) if name in (self.knows(keys[: len(keys) - len(inner) + at]) or ())
        ]
        path = f".{'.'.join(named)}"
        table = NAMES_OF_KINDS.get(kind, NAMES)
        return (
            [other for other, ours in table.items() if _ends_with(path, ours)] if inner[-1:] == (*named[-1:],) else []
        )

    def line(self, position: int) -> int:
        """The line of a position, from 1."""
        return self.text.count("\n", 0, position) + 1

    def with_(self, *edits: tuple[int, int, str]) -> str:
        """The text with stretches replaced; edits are given from the top of the file to its end."""
        parts, done = [], 0
        for start, end, new in edits:
            parts += [self.text[done:start], new]
            done = end
        return "".join([*parts, self.text[done:]])

    def lines_of(self, entry: Entry) -> tuple[int, int]:
        """The whole lines of an entry that has them for itself, or its stretch of a line that it shares."""
        first = self.text.rfind("\n", 0, entry.start) + 1
        last = self.line_end(entry.end)
        if not entry.flow and not self.text[first : entry.start].strip():
            return first, last
        siblings = [other for other in self.entries if other.keys[:-1] == entry.keys[:-1]]
        at = siblings.index(entry)
        if at + 1 < len(siblings):
            return entry.start, siblings[at + 1].start
        return (siblings[at - 1].end if at and entry.flow else entry.start), entry.end

    def targets(self, entry: Entry) -> list[_Target]:
        """Where an entry does not belong: the other mappings that have lines of their own."""
        return [
            target
            for target in self._targets
            if target.keys != entry.keys[:-1] and target.keys[: len(entry.keys)] != entry.keys
        ]

    def meaning(self, keys: Keys) -> tuple[str, Keys]:
        """The kind of document that a path is of, and the path in there."""
        if self.document.kind == "template" and keys[:1] == ("values",):
            return self.document.values["for"], keys[1:]
        return self.document.kind, keys

    def line_end(self, position: int) -> int:
        """Where the line of a position ends: behind its newline."""
        return (self.text.find("\n", position) + 1) or len(self.text)

    def _walk(self, node: yaml.Node, keys: Keys, above: int) -> None:
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._walk(item, (*keys, index), item.start_mark.index)
        elif isinstance(node, yaml.MappingNode):
            if not node.flow_style:
                column = node.value[0][0].start_mark.column
                self._targets.append(_Target(keys, column, self.line_end(self._end(node))))
            for key, value in node.value:
                start, colon = key.start_mark.index, key.end_mark.index
                here = (*keys, key.value)
                end = max(self._end(value), self.text.index(":", colon) + 1)
                column = key.start_mark.column
                self.entries.append(Entry(here, key.value, start, colon, end, column, bool(node.flow_style), above))
                self._walk(value, here, start)

    def _end(self, node: yaml.Node) -> int:
        """Behind the last character of a node; PyYAML counts the comments after a block to it."""
        if isinstance(node, yaml.MappingNode) and not node.flow_style:
            key, value = node.value[-1]
            return max(self._end(value), self.text.index(":", key.end_mark.index) + 1)
        if isinstance(node, yaml.SequenceNode) and not node.flow_style:
            return self._end(node.value[-1])
        start = node.start_mark.index
        return start + len(self.text[start : node.end_mark.index].rstrip())


def _in_place(source: Source, entry: Entry, operator: str, name: str, *, meant: str) -> Mutant:
    """The entry under another name."""
    written = source.text[entry.start : entry.colon].replace(entry.name, name)
    known = source.knows(entry.keys[:-1])
    return Mutant(
        file=source.file,
        operator=operator,
        path=dotted(entry.keys),
        change=name,
        text=source.with_((entry.start, entry.colon, written)),
        lines=(source.line(entry.start),),
        allowed=known is None,
        meant=meant if known is not None else "",
    )


def _renamed(source: Source, entry: Entry) -> Iterator[Mutant]:
    taken = {*(source.knows(entry.keys[:-1]) or ()), *value_at(source.document.values, entry.keys[:-1])}
    others = source.names_elsewhere(entry.keys)
    for other in others or [_STRANGE]:
        if other not in taken:
            yield _in_place(source, entry, "rename", other, meant=entry.name if others else "")


def _ends_with(path: str, endings: tuple[str, ...]) -> bool:
    return any(path.endswith(f".{ending}") for ending in endings)


def _mistyped(source: Source, entry: Entry) -> Iterator[Mutant]:
    taken = {"", *(source.knows(entry.keys[:-1]) or ()), *value_at(source.document.values, entry.keys[:-1])}
    found = sorted({slip for slip in _slips(entry.name, _chance(source, entry)) if slip not in taken})
    yield from (_in_place(source, entry, "typo", slip, meant=entry.name) for slip in found)


def _slips(name: str, chance: random.Random) -> Iterator[str]:
    """A letter dropped, doubled, replaced, and two swapped: each at some places."""
    for at in chance.sample(range(len(name)), min(_SLIPS, len(name))):
        yield name[:at] + name[at + 1 :]
        yield name[: at + 1] + name[at:]
        yield name[:at] + chance.choice(_LETTERS) + name[at + 1 :]
    for at in chance.sample(range(len(name) - 1), min(_SLIPS, len(name) - 1)):
        yield name[:at] + name[at + 1] + name[at] + name[at + 2 :]


def _deleted(source: Source, entry: Entry) -> Iterator[Mutant]:
    start, end = source.lines_of(entry)
    text = source.with_((start, end, ""))
    # Without its `kind:` a document can be a whole one of another kind: a corpus is one of an experiment with defaults.
    needed = entry.name in _required(source, entry.keys[:-1]) and entry.keys != ("kind",)
    lines = (_line_of_loss(source, entry, text),)
    yield Mutant(source.file, "delete", dotted(entry.keys), "left out", text, lines, allowed=not needed)


def _line_of_loss(source: Source, entry: Entry, text: str) -> int:
    """Where the section stands that misses a key; the top level begins with what is now its first key."""
    if entry.keys[:-1]:
        return source.line(entry.above)
    return next(number for number, line in enumerate(text.splitlines(), 1) if line and not line.startswith("#"))


def _required(source: Source, keys: Keys) -> set[str]:
    """What a mapping cannot be without: always, or in the branch that it has chosen."""
    schema = source.schema(keys)
    values = value_at(source.document.values, keys)
    required = set(schema.get("required", ()))
    for part in schema.get("allOf", ()):
        conditions = part["if"]["properties"].items()
        if all(values.get(name) == condition.get("const") for name, condition in conditions):
            required |= set(part["then"].get("required", ()))
    kind, inner = source.meaning(keys)
    # Where a template for experiments names no corpus, the shipped one steps in.
    return required - {"dataset", "source", "kind"} if kind == EXPERIMENT and inner != keys else required


# What stands for each JSON type; a setting that takes the type may still refuse the value.
_TYPES = {
    "string": '"no such word"',
    "integer": "7",
    "number": "0.5",
    "boolean": "true",
    "null": "null",
    "array": "[[]]",
    "object": "{no_such_key: 1}",
}


def _retyped(source: Source, entry: Entry) -> Iterator[Mutant]:
    kinds = _kinds(source.schema(entry.keys))
    value = value_at(source.document.values, entry.keys)
    written = dict(_TYPES)
    if isinstance(value, bool | int | float):
        written["string in quotes"] = f'"{source.document.texts[entry.keys]}"'
    for kind, new in written.items():
        yield _with_value(source, entry, "retype", kind, new, allowed=kind.split()[0] in kinds)


def _kinds(schema: Schema) -> set[str]:
    """The JSON types that a schema takes; every integer is a number."""
    kinds = schema.get("type", list(_TYPES))
    found = {kinds} if isinstance(kinds, str) else set(kinds)
    return {*found, "integer"} if "number" in found else found


def _beyond(source: Source, entry: Entry) -> Iterator[Mutant]:
    schema = source.schema(entry.keys)
    own = value_at(source.document.values, entry.keys)
    for limit, new in _too_far(schema):
        yield _with_value(source, entry, "range", limit, new, allowed=False)
    if schema.get("uniqueItems") and isinstance(own, list) and own:
        item = source.document.texts.get((*entry.keys, 0), "{}")
        yield _with_value(source, entry, "range", "uniqueItems", f'["{item}", "{item}"]', allowed=False)
    if isinstance(own, list):
        for limit, new in _too_far(schema.get("items", {})):
            yield _with_value(source, entry, "range", f"an item: {limit}", f"[{new}]", allowed=False)


def _too_far(schema: Schema) -> Iterator[tuple[str, str]]:
    """Values just outside each limit of a setting, as YAML spells them."""
    steps = {"minimum": -1, "maximum": 1, "exclusiveMinimum": 0, "exclusiveMaximum": 0}
    yield from ((limit, repr(schema[limit] + step)) for limit, step in steps.items() if limit in schema)
    if "enum" in schema:
        yield "enum", "no_such_choice"
    if "const" in schema:
        yield "const", "no_such_choice" if isinstance(schema["const"], str) else repr(schema["const"] + 1)
    if "pattern" in schema:
        yield "pattern", next(f'"{text}"' for text in ("", "!", "no such form") if not _fits(schema["pattern"], text))
    if "minLength" in schema:
        yield "minLength", f'"{"a" * (schema["minLength"] - 1)}"'
    if "maxLength" in schema:
        yield "maxLength", f'"{"a" * (schema["maxLength"] + 1)}"'
    if "minItems" in schema:
        yield "minItems", f"[{', '.join(['7'] * (schema['minItems'] - 1))}]"
    if "maxItems" in schema:
        yield "maxItems", f"[{', '.join(['7'] * (schema['maxItems'] + 1))}]"
    if "minProperties" in schema:
        yield "minProperties", f"{{{', '.join(f'a{number}: 7' for number in range(schema['minProperties'] - 1))}}}"
    if "maxProperties" in schema:
        yield "maxProperties", f"{{{', '.join(f'a{number}: 7' for number in range(schema['maxProperties'] + 1))}}}"


def _fits(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None


def _with_value(source: Source, entry: Entry, operator: str, change: str, new: str, *, allowed: bool) -> Mutant:
    """The entry with another value, on the line of its key."""
    text = source.with_((entry.colon, entry.end, f": {new}"))
    lines = (source.line(entry.start),)
    return Mutant(source.file, operator, dotted(entry.keys), change, text, lines, allowed)


def _misplaced(source: Source, entry: Entry) -> Iterator[Mutant]:
    targets = source.targets(entry)
    sections = [target for target in targets if target.keys]
    chosen = _chance(source, entry).sample(sections, min(_PLACES, len(sections)))
    yield from (_moved(source, entry, target) for target in targets if target in chosen or not target.keys)


def _moved(source: Source, entry: Entry, target: _Target) -> Mutant:
    start, end = source.lines_of(entry)
    indent = " " * target.column
    shift = target.column - entry.column
    first, *others = source.text[entry.start : entry.end].split("\n")
    moved = [indent + first, *(" " * (len(line) - len(line.lstrip()) + shift) + line.lstrip() for line in others)]
    piece = "\n".join(moved) + "\n"
    cut, put = (start, end, ""), (target.end, target.end, piece)
    text = source.with_(cut, put) if end <= target.end else source.with_(put, cut)
    line = source.line(target.end) - (source.text.count("\n", start, end) if end <= target.end else 0)
    known = source.knows(target.keys)
    # What stands in a list or in another document has a home that no name tells.
    lost = (
        known is not None and entry.name not in known and source.is_plain(entry.keys) and source.is_plain(target.keys)
    )
    return Mutant(
        file=source.file,
        operator="misplace",
        path=dotted(entry.keys),
        change=f"moved to {dotted(target.keys) or 'the top level'}",
        text=text,
        lines=(line, _line_of_loss(source, entry, text)),
        allowed=known is None or entry.name in known,
        home=dotted(entry.keys[:-1]) if lost else None,
    )


def _doubled(source: Source, entry: Entry) -> Iterator[Mutant]:
    again = source.text[entry.start : entry.end]
    if entry.flow:
        at, line = entry.end, source.line(entry.end)
        text = source.with_((at, at, f", {again}"))
    else:
        at, line = source.line_end(entry.end), source.line(entry.end) + 1
        text = source.with_((at, at, f"{' ' * entry.column}{again}\n"))
    yield Mutant(source.file, "duplicate", dotted(entry.keys), "written twice", text, (line,), allowed=False)


def _chance(source: Source, entry: Entry) -> random.Random:
    """Drawn for each key by itself, so that a new key or file leaves the mutants of the others as they are."""
    return random.Random(f"{source.file} {dotted(entry.keys)}")


_OPERATORS = {
    "rename": _renamed,
    "typo": _mistyped,
    "delete": _deleted,
    "retype": _retyped,
    "range": _beyond,
    "misplace": _misplaced,
    "duplicate": _doubled,
}


@cache
def sources() -> tuple[Source, ...]:
    """All shipped specs."""
    return tuple(Source(path) for path in shipped())
