"""YAML 1.2 (and so JSON) as plain values that remember their line and column.

PyYAML scans and parses; what a scalar means is decided here by the YAML 1.2 core schema, because PyYAML follows
YAML 1.1, where `5e-5` is text, `on` is true, `010` is 8 and `1:30` is 90, and where the last of two equal keys wins
in silence. Source: YAML 1.2.2, section 10.3.2.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from pipeline.paths import SPECS
from pipeline.spec.diagnose import Problem, SpecError
from pipeline.spec.nearest import closest
from pipeline.spec.schema import EXPERIMENT, Schema, kinds, schema_of

Keys = tuple[Any, ...]  # the way to a value, through names and numbers of items: ("dataset", "source", "members", 0)

MAX_BYTES = 250_000  # a spec is a few kilobytes; to find what is wrong in that much takes PyYAML half a second
MAX_DEPTH = 16  # the schema needs 4
MAX_VALUES = 5_000  # keys count too, aliases as what they stand for; the schema needs some 200 and its lists
MAX_ALIASES = 16
_LONGEST_MESSAGE = 500  # characters; ours stay well below, unless they repeat a very long key


def _decimal(text: str) -> int | float:
    # Python refuses to convert very long digits; what does not fit 64 bits is refused later anyway.
    return int(text) if len(text) <= 40 else math.inf


# YAML 1.2.2, section 10.3.2, in its order
_CORE: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"(?:null|Null|NULL|~|)\Z"), lambda _: None),
    (re.compile(r"(?:true|True|TRUE)\Z"), lambda _: True),
    (re.compile(r"(?:false|False|FALSE)\Z"), lambda _: False),
    (re.compile(r"[-+]?[0-9]+\Z"), _decimal),
    (re.compile(r"0o[0-7]+\Z"), lambda text: int(text, 8)),
    (re.compile(r"0x[0-9a-fA-F]+\Z"), lambda text: int(text, 16)),
    (re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z"), float),
    (re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z"), lambda text: float(text.replace(".", ""))),
    (re.compile(r"\.(?:nan|NaN|NAN)\Z"), lambda _: math.nan),
)
_BEGINS_NO_TEXT = "-+.0123456789~nNtTfF"  # what else than text can begin with
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # what PyYAML counts as one
# Where libyaml takes what PyYAML refuses, or counts columns otherwise: tabs between words, `?` and `!` in plain text, a
# comment that touches the mark of a block, a value between brackets that is left out, rare line ends, byte order marks.
_NOT_FOR_LIBYAML = re.compile(r"[\t!?\x85\u2028\u2029\ufeff]|[|>][-+0-9]*#|:\s*[],}]")
_INT64 = 2**63
# Stands for a value that has a problem of its own, so that nothing else is said about it.
UNUSABLE: Any = object()

_TOO_TIGHT = re.compile(r"(\s*[A-Za-z_]\w*:)[^\s/]")  # `d_model:128`, but no address
_BACKSLASH = "use single quotes, or write `\\\\` for one backslash; paths can have `/`"
_NO_COMMENTS = "JSON has no comments: take them away, or call the file .yaml and let comments begin with #"
# What PyYAML says → what a person can act on. The first part that matches wins.
_SYNTAX = (
    ("found character '\\t'", "a tab cannot indent YAML", "indent with spaces"),
    (
        "mapping values are not allowed here",
        "a `:` where no key can stand",
        "put text that holds `: ` in quotes, and check the indentation of this line and the one above",
    ),
    (
        "could not find expected ':'",
        "this line is neither a `key: value` nor a part of the line above",
        "write `key: value`, or close the quotes and brackets opened above",
    ),
    (
        "expected <block end>",
        "the indentation fits none of the lines above",
        "keys of one section start in the same column",
    ),
    ("expected ',' or ']'", "a list that starts with `[` is not closed, or a comma is missing", "close it with `]`"),
    ("expected ',' or '}'", "a mapping that starts with `{` is not closed, or a comma is missing", "close it with `}`"),
    ("found unexpected end of stream", "text in quotes is not closed", "close the quotes"),
    ("cannot start any token", "this character cannot start a value", "put the text in quotes"),
    ("found unknown escape character", "no such escape in double quotes", _BACKSLASH),
    ("expected escape sequence of", "no such escape in double quotes", _BACKSLASH),
)


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of one line; line and column count from 1."""

    line: int
    column: int
    length: int


@dataclass(slots=True)
class Document:
    """A parsed file.

    Attributes:
        file: its name as given.
        lines: its text.
        values: plain dicts, lists and scalars.
        keys: where the key of each mapping entry stands.
        places: where each value stands.
        texts: each scalar as it is written, without quotes.
        problems: what is wrong with the YAML although values could be read.
    """

    file: str
    lines: list[str]
    values: Any = None
    keys: dict[Keys, Place] = field(default_factory=dict)
    places: dict[Keys, Place] = field(default_factory=dict)
    texts: dict[Keys, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def kind(self) -> Any:
        """What kind of document it says it is: anything that can stand in YAML.

        When it says nothing, the kind that knows most of its keys: an experiment, or one that then misses its `kind:`.
        """
        names = self.values if isinstance(self.values, dict) else {}
        if "kind" in names:
            return names["kind"]
        return max((EXPERIMENT, *kinds()), key=lambda kind: len(schema_of(kind)["properties"].keys() & names.keys()))

    @property
    def schema(self) -> Schema:
        """The schema of its kind."""
        return schema_of(self.kind)

    def problem(
        self, code: str, message: str, place: Place | None, *, path: str = "", allowed: str = "", hint: str = ""
    ) -> Problem:
        """A problem at a place of this file; see `Problem`."""
        problem = Problem(
            code, _shown(_masked(message)), self.file, path=_shown(path), allowed=allowed, hint=_shown(hint)
        )
        if place is None:
            return problem
        source = self.lines[place.line - 1] if place.line <= len(self.lines) else ""
        return replace(problem, line=place.line, column=place.column, length=place.length, source=_masked(source))

    def place_of(self, keys: Keys, *, key: bool = False) -> Place | None:
        """Where a value stands (or its key); for one that is not in the file, what is nearest above it."""
        first, second = (self.keys, self.places) if key else (self.places, self.keys)
        while keys:
            if place := first.get(keys) or second.get(keys):
                return place
            keys, first, second = keys[:-1], self.keys, self.places
        return self.places.get(())


def _masked(text: str) -> str:
    """Text without the passwords of addresses in it; as long as before, so that marks under it stay in place."""
    return re.sub(r"(?<=://)([^/\s:@]*:)(\S+)(?=@)", lambda found: found[1] + "*" * len(found[2]), text)


def value_at(values: Any, keys: Keys) -> Any:
    """The value at a path that exists."""
    for key in keys:
        values = values[key]
    return values


def dotted(keys: Keys) -> str:
    """`("dataset", "source", "members", 0)` as `dataset.source.members[0]`."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def read_document(path: Path | str) -> Document:
    """Read a YAML or JSON file.

    Raises:
        SpecError: it cannot be read, or not as one YAML document with a mapping at the top.
    """
    file = str(path)
    try:
        with Path(path).open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SpecError([Problem("E0101", "the file does not exist", file, hint=_nearby(Path(path)))]) from None
    except IsADirectoryError:
        hint = "name the YAML file inside it"
        raise SpecError([Problem("E0101", "this is a folder, not a file", file, hint=hint)]) from None
    except OSError as error:
        raise SpecError([Problem("E0101", f"the file cannot be read: {error.strerror}", file)]) from None
    return parse_document(raw, file)


def parse_document(raw: bytes, file: str) -> Document:
    """Parse the bytes of a YAML or JSON file; `file` is its name in messages.

    Raises:
        SpecError: the bytes are not one YAML document with a mapping at the top.
    """
    if len(raw) > MAX_BYTES:
        message = f"the file has more than {MAX_BYTES:,} bytes, which no spec needs"
        raise SpecError([Problem("E0102", message, file, hint="is this the right file?")])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        message = f"the file is not UTF-8 text: byte {raw[error.start]:#04x} on line {line}"
        raise SpecError([Problem("E0103", message, file, hint="save it as UTF-8")]) from None
    if file.endswith(".json"):
        text = text.replace("\t", " ")  # JSON may indent with tabs and has none inside its strings
    try:
        document = _parsed(file, text)
    except SpecError as error:
        if file.endswith(".json") and (broken := _not_json(file, text)):
            raise SpecError([broken]) from None
        raise error from None
    # YAML reads more than JSON does, and that is welcome, but it takes a comment for a part of the next key.
    for place in document.keys.values() if file.endswith(".json") else ():
        if document.lines[place.line - 1].startswith(("//", "/*"), place.column - 1):
            raise SpecError([document.problem("E0104", "not JSON: a comment", place, hint=_NO_COMMENTS)])
    return document


def _parsed(file: str, text: str) -> Document:
    if yaml.__with_libyaml__ and not _NOT_FOR_LIBYAML.search(text):
        # The same events, twenty times faster. What it refuses, PyYAML's own parser explains or takes after all.
        with suppress(yaml.YAMLError):
            return _Reader(file, text, yaml.CSafeLoader).read()
    return _Reader(file, text, yaml.SafeLoader).explain()


def _not_json(file: str, text: str) -> Problem | None:
    """What a parser of JSON says about a file that is not even YAML; None where JSON is not what is wrong."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        document = Document(file, text.split("\n"))
        hint = _NO_COMMENTS if text.startswith(("//", "/*"), error.pos) else ""
        said = error.msg[0].lower() + error.msg[1:]
        place = Place(error.lineno, error.colno, 1)
        return document.problem("E0104", f"not JSON: {said}", place, hint=hint)
    except RecursionError:
        pass  # too deep for a spec, which the other parser says with its limit
    return None


def scalar(text: str) -> Any:
    """What a plain scalar means in the YAML 1.2 core schema; infinities and NaN come back as such."""
    if text[:1] in _BEGINS_NO_TEXT:  # also when it is empty
        for pattern, meaning in _CORE:
            if pattern.match(text):
                return meaning(text)
    return text


@dataclass(slots=True)
class _Node:
    """A value before aliases are expanded: a scalar, a list of nodes, or name → (place of the key, node)."""

    place: Place
    value: Any
    text: str | None = None


_Mapping = dict[str, tuple[Place, _Node]]


class _Reader:
    """Turns PyYAML's events into a document, within limits, without ever building an object of a file's choice."""

    def __init__(self, file: str, text: str, parser: type[yaml.SafeLoader | yaml.CSafeLoader]) -> None:
        self.document = Document(file, _LINE_END.split(text))
        self.text = text
        self.parser = parser
        self.anchors: dict[str, _Node | None] = {}  # None: its value is still being read
        self.aliases = 0
        self.values = 0

    def read(self) -> Document:
        """The document.

        Raises:
            SpecError: it is YAML, but not what a spec can be.
            YAMLError: it is not YAML.
        """
        self.loader: Any = self.parser(self.text)
        root = self._root()
        if not isinstance(root.value, dict):
            found = "a list" if isinstance(root.value, list) else "a single value"
            message = f"a spec is a mapping of sections, but this file holds {found}"
            raise self._fatal("E0107", message, root.place, hint="start with `schema_version: 1`")
        self.document.values = self._expand(root, ())
        return self.document

    def explain(self) -> Document:
        """The document; what is not YAML is a SpecError too, which says what is wrong where."""
        try:
            return self.read()
        except SpecError:
            raise
        except yaml.reader.ReaderError as error:
            raise self._unreadable(error) from None
        except yaml.MarkedYAMLError as error:
            raise self._invalid(error) from None
        except (ValueError, OverflowError) as error:  # from chr() and int() on escapes and versions out of range
            place = Place(self.loader.line + 1, self.loader.column + 1, 1)
            raise self._fatal("E0104", str(error), place) from None

    def _root(self) -> _Node:
        root = None
        while (event := self._next()) is not None:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    hint = "keep one spec in a file"
                    raise self._fatal("E0106", "a second YAML document starts here", _place(event), hint=hint)
            elif not isinstance(event, yaml.StreamStartEvent | yaml.StreamEndEvent | yaml.DocumentEndEvent):
                root = self._node(event, ())
        if root is None or (root.value is None and not root.text):
            raise self._fatal("E0105", "the file holds no values", None, hint="foundry new NAME writes a complete one")
        return root

    def _next(self) -> Any:
        return self.loader.get_event()  # None at the end

    def _node(self, event: Any, keys: Keys) -> _Node:
        place = _place(event)
        self.values += 1
        if len(keys) > MAX_DEPTH:
            raise self._fatal("E0112", f"values nested more than {MAX_DEPTH} deep", place)
        if self.values > MAX_VALUES:
            raise self._fatal("E0112", f"more than {MAX_VALUES:,} values, which no spec needs", place)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), place)
        if event.tag is not None:
            hint = "leave the tag out; put the value in quotes if it is text"
            self._note(
                "E0110", f"the tag `{event.tag}`: a spec holds plain values only", place, path=dotted(keys), hint=hint
            )
        anchor = event.anchor
        if anchor is not None:
            self.anchors[anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = _Node(place, self._scalar(event, place, keys), event.value)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = _Node(place, self._sequence(keys))
        else:
            node = _Node(place, self._mapping(keys))
        if anchor is not None:
            self.anchors[anchor] = node
        return node

    def _sequence(self, keys: Keys) -> list[_Node]:
        items: list[_Node] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._node(event, (*keys, len(items))))
        return items

    def _mapping(self, keys: Keys) -> _Mapping:
        entries: _Mapping = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._node(event, (*keys, "?"))
            name = key.value if isinstance(key.value, str) else key.text
            here = (*keys, name or "?")
            node = self._node(self._next(), here)
            if name == "<<" and isinstance(event, yaml.ScalarEvent) and not event.style:
                hint = "write the keys out: a spec says everything where it stands"
                self._note(
                    "E0111", "the merge key `<<` is not part of YAML 1.2", key.place, path=dotted(here), hint=hint
                )
            elif key.value is UNUSABLE:
                pass  # reported already
            elif name is None:
                self._note("E0109", "a key must be text, not a list or a mapping", key.place, path=dotted(keys))
            elif name in entries:
                message = f"the key `{name}` stands twice: first on line {entries[name][0].line}"
                self._note("E0108", message, key.place, path=dotted(here), hint="keep one of them")
            else:
                if not isinstance(key.value, str):
                    hint = f'write "{name}" if that is the name'
                    self._note("E0109", f"the key `{name}` is not text", key.place, path=dotted(here), hint=hint)
                entries[name] = (key.place, node)
        return entries

    def _scalar(self, event: Any, place: Place, keys: Keys) -> Any:
        if event.style:  # in quotes, or a block of text
            return self._text(event.value, place, keys)
        value = scalar(event.value)
        if isinstance(value, float) and not math.isfinite(value):
            message = f"`{event.value}` is not a finite number that fits 64 bits"
        elif isinstance(value, int) and not -_INT64 <= value < _INT64:
            message = f"`{event.value}` does not fit 64 bits"
        else:
            return value
        self._note("E0113", message, place, path=dotted(keys))
        return UNUSABLE

    def _text(self, value: str, place: Place, keys: Keys) -> Any:
        try:  # JSON writes characters beyond U+FFFF as two escapes, which belong together
            return value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self._note("E0114", "half of a surrogate pair is not a character", place, path=dotted(keys))
            return UNUSABLE

    def _alias(self, name: str, place: Place) -> _Node:
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            raise self._fatal("E0112", f"more than {MAX_ALIASES} aliases, which no spec needs", place)
        if name not in self.anchors:
            hint = f"write the value out, or mark what it repeats with &{name}"
            raise self._fatal("E0104", f"the alias `*{name}` repeats nothing that stands above", place, hint=hint)
        node = self.anchors[name]
        if node is None:
            raise self._fatal("E0104", f"the alias `*{name}` stands inside the value it repeats", place)
        return node

    def _expand(self, node: _Node, keys: Keys) -> Any:
        """Plain values of a node; every path gets its places, also below an alias, up to the limit of values."""
        document = self.document
        if len(document.places) > MAX_VALUES or len(keys) > MAX_DEPTH:
            raise self._fatal("E0112", "the aliases repeat too many values", document.places[keys[:1]])
        document.places[keys] = node.place
        if isinstance(node.value, list):
            return [self._expand(item, (*keys, index)) for index, item in enumerate(node.value)]
        if isinstance(node.value, dict):
            values = {}
            for name, (place, child) in node.value.items():
                document.keys[*keys, name] = place
                values[name] = self._expand(child, (*keys, name))
            return values
        document.texts[keys] = node.text or ""
        return node.value

    def _note(self, code: str, message: str, place: Place, *, path: str, hint: str = "") -> None:
        self.document.problems.append(self.document.problem(code, message, place, path=path, hint=hint))

    def _fatal(self, code: str, message: str, place: Place | None, *, hint: str = "") -> SpecError:
        return SpecError([*self.document.problems, self.document.problem(code, message, place, hint=hint)])

    def _invalid(self, error: yaml.MarkedYAMLError) -> SpecError:
        mark = error.problem_mark or error.context_mark
        said = error.problem or str(error)
        if "mapping values" in said and mark and (above := _TOO_TIGHT.match(self.document.lines[mark.line - 1])):
            colon = Place(mark.line, above.end(1), 1)
            return self._fatal("E0104", "a `:` without a space after it ends no key", colon, hint="put a space there")
        message, hint = said, ""
        for part, meaning, advice in _SYNTAX:
            if part in said:
                message, hint = meaning, advice
                break
        place = Place(mark.line + 1, mark.column + 1, 1) if mark else None
        return self._fatal("E0104", message, place, hint=hint)

    def _unreadable(self, error: yaml.reader.ReaderError) -> SpecError:
        before = _LINE_END.split(self.text[: error.position])
        place = Place(len(before), len(before[-1]) + 1, 1)
        message = f"the control character U+{ord(self.text[error.position]):04X} cannot stand in YAML"
        return self._fatal("E0104", message, place, hint="delete it")


def _shown(text: str) -> str:
    """Text from a file as a terminal can take it: no control characters, no half characters, not endless."""
    visible = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return visible if len(visible) <= _LONGEST_MESSAGE else f"{visible[:_LONGEST_MESSAGE]}…"


def _place(event: Any) -> Place:
    start, end = event.start_mark, event.end_mark
    length = end.column - start.column if end.line == start.line else 1
    return Place(start.line + 1, start.column + 1, max(1, length))


def _nearby(path: Path) -> str:
    if (SPECS / "presets" / f"{path}.yaml").is_file():
        return f"{path} is a preset; to have it as a file: foundry new NAME --from {path}"
    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder {folder} here; run from the project folder"
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in (".yaml", ".yml", ".json"))
    except OSError:  # a folder that may be entered but not listed
        return ""
    near = closest(path.name, names)
    return f"did you mean {folder / near}?" if near else ""
