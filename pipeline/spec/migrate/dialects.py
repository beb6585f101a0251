"""All dialects, and which one a document is written in."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from pipeline.spec.diagnose import Problem, SpecError
from pipeline.spec.document import Document, Keys
from pipeline.spec.migrate.one_command import ONE_COMMAND
from pipeline.spec.migrate.table import Dialect
from pipeline.spec.migrate.trainer import TRAINER
from pipeline.spec.migrate.training_config import TRAINING_CONFIG
from pipeline.spec.schema import kinds, leaves, schema_of
from pipeline.spec.words import listed

DIALECTS = (TRAINING_CONFIG, TRAINER, ONE_COMMAND)


def plain(name: str) -> str:
    """A key as the tables have it: options may be written with their dashes."""
    return name.removeprefix("--").replace("-", "_") if name.startswith("--") or "-" in name else name


def old_leaves(values: Any, dialect: Dialect, keys: Keys = ()) -> Iterator[tuple[Keys, str, Any]]:
    """What a document says, key by key: the way to it, its dotted name in the table, its value.

    A mapping that the table does not look into is one value; one that holds nothing is, too.
    """
    for name, value in values.items():
        here = (*keys, name)
        old = ".".join(plain(key) for key in here)
        if isinstance(value, dict) and value and dialect.row(old) is None and dialect.has_inside(old):
            yield from old_leaves(value, dialect, here)
        else:
            yield here, old, value


def candidates(document: Document) -> list[Dialect]:
    """The dialects that a document can be written in: it has a key that only they have, and they know most of it."""
    return [dialect for dialect in DIALECTS if _is_written_in(document.values, dialect)]


def recognised(document: Document) -> Dialect:
    """The dialect that a document is written in.

    Raises:
        SpecError: it is none that is known, or could be more than one.
    """
    found = candidates(document)
    if len(found) == 1:
        return found[0]
    if found:
        names = [f"a {dialect.title} (--dialect {dialect.name})" for dialect in found]
        message = f"this could be {listed(names)}"
        raise SpecError([document.problem("E0602", message, document.place_of(()), hint="say which with --dialect")])
    message = "this is neither a document of today nor a configuration of an earlier system that is known"
    hint = f"if it is one, say which: --dialect {listed([dialect.name for dialect in DIALECTS])}"
    raise SpecError([document.problem("E0603", message, document.place_of(()), hint=hint)])


def earlier(document: Document) -> Problem | None:
    """What to say about a document of an earlier system instead of checking it; None for every other document."""
    if document.values.get("kind") in kinds():
        return None
    found = candidates(document)
    if not found:
        return None
    titles = listed([f"a {dialect.title}" for dialect in found])
    message = f"this is a configuration of an earlier system ({titles})"
    return document.problem("E0601", message, document.place_of(()), hint=f"run: foundry migrate {document.file}")


def _is_written_in(values: Any, dialect: Dialect) -> bool:
    names = [old for _, old, _ in old_leaves(values, dialect)]
    known = [old for old in names if dialect.row(old) or dialect.has_inside(old)]
    return 2 * len(known) > len(names) and any(old in _marks(dialect.name) for old in known)


@cache
def _marks(name: str) -> frozenset[str]:
    """The keys of a dialect that neither another dialect nor a document of today has."""
    others = {row.old for dialect in DIALECTS for row in dialect.rows if dialect.name != name}
    today = {".".join(keys) for kind in kinds() for keys, _ in leaves(schema_of(kind))}
    own = next(dialect for dialect in DIALECTS if dialect.name == name)
    return frozenset(row.old for row in own.rows) - others - today
