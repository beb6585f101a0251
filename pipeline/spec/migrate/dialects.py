"""All dialects, and which one a document is written in."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from pipeline.spec.diagnose import Problem
from pipeline.spec.document import Document, Keys
from pipeline.spec.migrate.error import MigrationError
from pipeline.spec.migrate.finetuning import FINETUNING
from pipeline.spec.migrate.one_command import ONE_COMMAND
from pipeline.spec.migrate.table import Carried, Dialect
from pipeline.spec.migrate.toolkit import EVALUATION, MONITORING, TASK, TIERS
from pipeline.spec.migrate.trainer import TRAINER
from pipeline.spec.migrate.training_config import TRAINING_CONFIG
from pipeline.spec.schema import kinds, leaves
from pipeline.spec.words import listed

DIALECTS = (TRAINING_CONFIG, TASK, EVALUATION, TIERS, MONITORING, FINETUNING, TRAINER, ONE_COMMAND)


def old_leaves(values: Any, dialect: Dialect, keys: Keys = ()) -> Iterator[tuple[Keys, str, Any]]:
    """What a document says, key by key: the way to it, its dotted name in the table, its value.

    A mapping that the table does not look into is one value; one that holds nothing is, too.
    """
    for name, value in values.items():
        here = (*keys, name)
        old = name.removeprefix("--").replace("-", "_") if dialect.has_options else ".".join(here)
        if isinstance(value, dict) and value and dialect.row(old) is None and dialect.has_inside(old):
            yield from old_leaves(value, dialect, here)
        else:
            yield here, old, value


def candidates(document: Document) -> list[Dialect]:
    """The dialects that a document can be written in: those that give a meaning to most of its keys."""
    meant = {dialect.name: _meant(document.values, dialect) for dialect in DIALECTS}
    most = max(meant.values())
    return [dialect for dialect in DIALECTS if most and meant[dialect.name] == most]


def recognised(document: Document) -> Dialect:
    """The dialect that a document is written in.

    Raises:
        MigrationError: it is none that is known, or could be more than one.
    """
    found = candidates(document)
    if len(found) == 1:
        return found[0]
    if found:
        names = [f"a {dialect.title} (--dialect {dialect.name})" for dialect in found]
        message = f"this could be {listed(names)}"
        raise MigrationError(
            [document.problem("E0602", message, document.place_of(()), hint="say which with --dialect")]
        )
    message = "this is neither a document of today nor a configuration of an earlier system that is known"
    hint = f"if it is one, say which: --dialect {listed([dialect.name for dialect in DIALECTS])}"
    raise MigrationError([document.problem("E0603", message, document.place_of(()), hint=hint)])


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


def _meant(values: Any, dialect: Dialect) -> int:
    """How many keys of a document have a setting in a dialect; none when it does not know most of them.

    Keys that stand alike in an experiment of today cannot show that a document is not one.
    """
    names = [old for _, old, _ in old_leaves(values, dialect)]
    known = [old for old in names if dialect.row(old) or dialect.has_inside(old)]
    if 2 * len(known) <= len(names) or not set(known) - _today():
        return 0
    return sum(isinstance(dialect.row(old), Carried) for old in known)


@cache
def _today() -> frozenset[str]:
    return frozenset(".".join(keys) for keys, _ in leaves())
