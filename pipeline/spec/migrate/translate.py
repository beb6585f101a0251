"""From an earlier document to the settings of today, with an account of every key and every setting."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.spec.check import check
from pipeline.spec.diagnose import Problem
from pipeline.spec.document import UNUSABLE, Document, Keys, Place, dotted
from pipeline.spec.migrate.dialects import old_leaves
from pipeline.spec.migrate.names import as_name, on_hub
from pipeline.spec.migrate.table import UNSET, Carried, Dialect, Dropped, Lost, Row
from pipeline.spec.nearest import closest
from pipeline.spec.rules import RULES
from pipeline.spec.schema import resolve, schema_at, schema_of
from pipeline.spec.words import spelled

_SO_ANYWAY = "it says what is so anyway"
_ANEW = "keep it with the system it is for, or begin anew: foundry presets, then foundry new NAME --from PRESET"
FROM_FILE, FROM_DEFAULT, FROM_HABIT, FROM_CALLER = "file", "default", "habit", "caller"


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one key of the earlier document.

    Attributes:
        keys: the way to it.
        old: its dotted name.
        value: what it said.
        new: the dotted setting that has its meaning; empty when none has.
        reason: why none has, or what is different now.
        accepted: whether it was given up because the caller said so.
    """

    keys: Keys
    old: str
    value: Any
    new: str = ""
    reason: str = ""
    accepted: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """Where a setting of the new document comes from.

    Attributes:
        origin: `file`, `default` (of the earlier system), `habit` (what it always did) or `caller`.
        reason: how, when it is not from the file.
        keys: the way to the key in the earlier document, when it is from the file.
    """

    origin: str
    reason: str = ""
    keys: Keys = ()


@dataclass(slots=True)
class Translation:
    """An earlier document in the words of today.

    Attributes:
        document: the earlier one.
        dialect: what it is written in.
        fates: what became of each of its keys, in its order.
        settings: dotted setting → value, of what is written into the new document.
        sources: where each of these comes from.
        agreed: settings that the earlier system had as this one has them by default; they are not written.
        idle: defaults of the earlier system that nothing reads with these settings; they are not written either.
        problems: why it cannot be carried over.
    """

    document: Document
    dialect: Dialect
    fates: list[Fate] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    agreed: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def values(self) -> dict[str, Any]:
        """The new document as nested values."""
        tree: dict[str, Any] = {}
        for name, value in self.settings.items():
            *above, last = name.split(".")
            inner = tree
            for key in above:
                inner = inner.setdefault(key, {})
            inner[last] = value
        return tree

    def put(self, name: str, value: Any, source: Source) -> None:
        """Set a setting that has no value yet; leave out what this version's default says anyway."""
        if name in self.settings or name in self.agreed:
            return
        if source.origin != FROM_FILE and self._is_default(name, value):
            self.agreed.append(name)
        else:
            self.settings[name] = value
            self.sources[name] = source

    def _is_default(self, name: str, value: Any) -> bool:
        schema = schema_at(name.split("."), schema_of(self.dialect.kind))
        owner = schema_at(name.split(".")[:-1], schema_of(self.dialect.kind))
        if owner.get("x-discriminator") == name.rpartition(".")[2]:
            return False  # it says which keys can stand beside it
        return "default" in schema and bool(resolve(schema, schema["default"]) == resolve(schema, value))


def translate(
    document: Document, dialect: Dialect, *, dropped: Collection[str] = (), text: Collection[str] = ()
) -> Translation:
    """Carry a document over by the table of its dialect.

    Args:
        document: a document of version 0.
        dialect: what it is written in.
        dropped: dotted keys that are to be treated as if they were not there.
        text: files that hold the text to learn from, for a dialect that only names it; without them a name of the
            Hugging Face hub is read from there.
    """
    dialect = dialect if text else _with_hub(document, dialect)
    found = Translation(document, dialect, problems=list(document.problems))
    found.settings["schema_version"] = 1
    found.settings["kind"] = dialect.kind
    for keys, old, value in old_leaves(document.values, dialect):
        if old in dropped:
            found.fates.append(Fate(keys, old, value, reason="given up with --drop", accepted=True))
        else:
            _take(found, keys, old, value)
    _place_text(found, text)
    _add_habits(found)
    _add_name(found)
    found.problems += _checked(found)
    found.problems.sort(key=lambda problem: (problem.line, problem.column))
    return found


def _with_hub(document: Document, dialect: Dialect) -> Dialect:
    meant = on_hub(_name_of_text(document, dialect)) if dialect.names_text else None
    return dialect.on_hub(*meant) if meant else dialect


def _name_of_text(document: Document, dialect: Dialect) -> Any:
    row = dialect.row(dialect.names_text)
    assert isinstance(row, Carried)
    return document.values.get(dialect.names_text, row.default)


# Keys of the earlier document


def _take(found: Translation, keys: Keys, old: str, value: Any) -> None:
    row = found.dialect.row(old)
    if row is None and found.dialect.has_inside(old) and (value is None or value == {}):
        found.fates.append(Fate(keys, old, value, reason="it holds nothing"))
    elif row is None:
        found.problems.append(_unknown(found, keys, old))
    elif isinstance(row, Carried):
        _carry(found, row, Fate(keys, old, value, row.new, row.note))
    elif isinstance(row, Lost) and _is_usable(value) and not row.harmless(value):
        message = f"`{old}: {spelled(value)}` cannot be carried over: {row.reason}"
        hint = _or_drop(row.hint, old)
        found.problems.append(_problem(found, "E0605", message, keys, hint))
    else:
        reason = _SO_ANYWAY if isinstance(row, Lost) else _reason(row)
        found.fates.append(Fate(keys, old, value, reason=reason))


def _carry(found: Translation, row: Carried, fate: Fate) -> None:
    if why := row.refuses.get(str(fate.value).lower()):
        found.problems.append(_problem(found, "E0607", why, fate.keys, _ANEW))
        return
    if not _is_usable(fate.value):
        found.fates.append(fate)  # what is wrong with it is among the problems already
        return
    value = row.meaning(fate.value)
    if value is UNSET:
        found.fates.append(replace(fate, new="", reason=row.note or _SO_ANYWAY))
        return
    if row.new in found.settings and not _agree(found.settings[row.new], value):
        first = next(other for other in found.fates if other.new == row.new)
        message = f"`{first.old}` and `{fate.old}` mean the same setting, {row.new}, but differ"
        hint = f"keep one of them: --drop {first.old} or --drop {fate.old}"
        found.problems.append(_problem(found, "E0606", message, fate.keys, hint))
        return
    found.fates.append(fate)
    found.put(row.new, value, Source(FROM_FILE, keys=fate.keys))


def _agree(first: Any, second: Any) -> bool:
    # To Python true is 1; to a reader of YAML it is not.
    return bool(first == second) and isinstance(first, bool) == isinstance(second, bool)


def _is_usable(value: Any) -> bool:
    if isinstance(value, dict | list):
        return all(map(_is_usable, value.values() if isinstance(value, dict) else value))
    return value is not UNUSABLE


def _reason(row: Row) -> str:
    assert isinstance(row, Dropped)
    return row.reason


def _unknown(found: Translation, keys: Keys, old: str) -> Problem:
    message = f"`{old}` is not a key of a {found.dialect.title}"
    meant = closest(old, [row.old for row in found.dialect.rows])
    return _problem(found, "E0604", message, keys, _or_drop(f"did you mean `{meant}`?" if meant else "", old))


def _or_drop(hint: str, old: str) -> str:
    return f"{hint + '; ' if hint else ''}to go on without it: --drop {old}"


def _problem(found: Translation, code: str, message: str, keys: Keys, hint: str) -> Problem:
    place = found.document.place_of(keys, key=True)
    return found.document.problem(code, message, place, path=dotted(keys), hint=hint)


# Settings that no key says


def _place_text(found: Translation, text: Collection[str]) -> None:
    key = found.dialect.names_text
    if key and text:
        source = Source(FROM_CALLER, "--text")
        found.settings.update({"dataset.source.kind": "files", "dataset.source.paths": list(text)})
        found.sources.update({"dataset.source.kind": source, "dataset.source.paths": source})
    elif key:
        name = _name_of_text(found.document, found.dialect)
        message = f"the text comes from the dataset {spelled(name)}, and a spec says where its text is"
        hint = f"name its files or folders: foundry migrate {found.document.file} --text PATH"
        place = found.document.place_of((key,))
        found.problems.append(found.document.problem("E0608", message, place, path=key, hint=hint))


def _add_habits(found: Translation) -> None:
    """Defaults, derived and fixed settings of the earlier system, in this order."""
    dialect = found.dialect
    for row in dialect.rows:
        if isinstance(row, Carried) and row.default is not UNSET:
            reason = f"its default of {row.old}"
            found.put(row.new, row.meaning(row.default), Source(FROM_DEFAULT, reason))
    for derived in dialect.derived:
        read = dialect.row(derived.reads)
        assert isinstance(read, Carried)
        value = found.settings.get(read.new, read.default)
        if (follows := derived.meaning(value)) is not UNSET:
            found.put(derived.new, follows, Source(FROM_HABIT, derived.reason))
    for fixed in dialect.fixed:
        found.put(fixed.new, copy.deepcopy(fixed.value), Source(FROM_HABIT, fixed.reason))


def _add_name(found: Translation) -> None:
    schema = schema_of(found.dialect.kind)
    if found.settings.get("name") is None and "name" in schema["properties"]:
        found.settings["name"] = as_name(Path(found.document.file).stem)
        found.sources["name"] = Source(FROM_HABIT, "the name of the file")


# The check of today, at the lines of the earlier document


def _checked(found: Translation) -> list[Problem]:
    problems = check(_as_document(found))
    for problem in problems:
        source = found.sources.get(problem.path)
        if problem.code == "W0102" and source and source.origin != FROM_FILE:
            found.idle.append(problem.path)
            del found.settings[problem.path], found.sources[problem.path]
    # What could not be carried over is not reported as missing too.
    told = {"E0204"} if found.problems else set()
    return [_moved(found, problem) for problem in problems if not (problem.is_warning or problem.code in told)]


def _as_document(found: Translation) -> Document:
    """The new values, each at the place of the key it came from."""
    old = found.document
    document = Document(old.file, old.lines, found.values)
    top = old.places[()]
    for name in found.settings:
        keys: Keys = tuple(name.split("."))
        for size in range(len(keys)):
            document.places.setdefault(keys[:size], top)
        source = found.sources.get(name, Source(FROM_HABIT))
        if source.origin == FROM_FILE:
            _copy_places(old, document, source.keys, keys)
        else:
            document.places[keys] = top
    return document


def _copy_places(old: Document, new: Document, there: Keys, here: Keys) -> None:
    size = len(there)
    for mine, theirs in ((new.places, old.places), (new.keys, old.keys)):
        mine.update({(*here, *keys[size:]): place for keys, place in theirs.items() if keys[:size] == there})
    new.texts.update({(*here, *keys[size:]): text for keys, text in old.texts.items() if keys[:size] == there})


def _moved(found: Translation, problem: Problem) -> Problem:
    """A problem of a setting that the file does not name, shown at one of the same rule that it does name."""
    rules = [rule for rule in RULES.get(found.dialect.kind, ()) if rule.code == problem.code]
    names = [problem.path, *(name for rule in rules if problem.path in rule.reads for name in rule.reads)]
    for name in names:
        source = found.sources.get(name)
        if source and source.origin == FROM_FILE:
            old = next(fate.old for fate in found.fates if fate.keys == source.keys)
            told = problem if rules else replace(problem, hint=_or_drop(problem.hint, old))
            return _at(found.document, told, found.document.place_of(source.keys))
    return problem


def _at(document: Document, problem: Problem, place: Place | None) -> Problem:
    if place is None or problem.line == place.line:
        return problem
    source = document.lines[place.line - 1]
    return replace(problem, line=place.line, column=place.column, length=place.length, source=source)
