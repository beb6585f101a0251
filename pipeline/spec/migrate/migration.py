"""From a file of any version to the newest: the chain of migrations, one version a step."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import FoundryError
from pipeline.spec.diagnose import SpecError
from pipeline.spec.document import parse_document, read_document
from pipeline.spec.migrate.dialects import DIALECTS, recognised
from pipeline.spec.migrate.error import MigrationError
from pipeline.spec.migrate.one_command import CALLS, read_call
from pipeline.spec.migrate.prove import proven
from pipeline.spec.migrate.report import key_table, setting_table
from pipeline.spec.migrate.rewrite import fresh_text, kept_text
from pipeline.spec.migrate.translate import translate
from pipeline.spec.nearest import closest
from pipeline.spec.versions import CURRENT
from pipeline.spec.words import listed
from pipeline.spec.write import modeline

if TYPE_CHECKING:
    from pipeline.spec.document import Document
    from pipeline.spec.migrate.table import Dialect


@dataclass(frozen=True, slots=True)
class Options:
    """What only the caller can say.

    Attributes:
        dialect: the name of the dialect of version 0; None recognises it.
        dropped: dotted keys to go on without.
        text: files that hold the text, for dialects that only name it.
    """

    dialect: str | None = None
    dropped: Collection[str] = ()
    text: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Migrated:
    """A document in the newest version.

    Attributes:
        source: the file it was read from.
        target: the file that is to hold it.
        before, after: its text, then and now.
        steps: the versions it went through, in words: empty when it was in the newest one.
        report: what became of each key, and where each setting comes from.
        dropped: the keys that were given up on purpose.
        took_text: whether it needed to be told where the text is.
    """

    source: Path
    target: Path
    before: str
    after: str
    steps: tuple[str, ...] = ()
    report: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    took_text: bool = False


def migrate(path: Path, options: Options | None = None) -> Migrated:
    """Carry the document in a file over to the newest version, without writing anything.

    Args:
        path: a YAML or JSON file, or a text file with a call of the one-command pipeline.
        options: what only the caller can say.

    Raises:
        MigrationError: the file cannot be read, is of no version that is known, or says something that has no
            meaning today; says everything at once.
    """
    try:
        document = read_call(path) if path.suffix in CALLS else read_document(path)
    except SpecError as error:
        raise MigrationError(error.problems) from None
    text = path.read_bytes().decode("utf-8-sig")
    migrated = Migrated(path, path, text, text)
    version = version_of(document)
    while version < CURRENT:
        migrated = MIGRATIONS[version](migrated, document, options or Options())
        document = parse_document(migrated.after.encode(), str(migrated.target))
        version += 1
    return migrated


def require_dialect(name: str) -> None:
    """Refuse the name of a dialect that there is not.

    Raises:
        FoundryError: there is none of this name.
    """
    names = [dialect.name for dialect in DIALECTS]
    if name not in names:
        meant = closest(name, names)
        hint = f"did you mean {meant}?" if meant else f"there are {listed(names, 'and')}"
        raise FoundryError(f"there is no dialect called {name}", hint=hint)


def version_of(document: Document) -> int:
    """The version that a document is written in; without one it is of version 0.

    Raises:
        MigrationError: the version is newer than this toolkit, or is no version.
    """
    values: dict[str, Any] = document.values
    version = values.get("schema_version", 0)
    if isinstance(version, bool) or not isinstance(version, int) or not 0 <= version <= CURRENT:
        from pipeline.spec.check import check  # noqa: PLC0415 - jsonschema is slow to import

        raise MigrationError([problem for problem in check(document) if problem.path == "schema_version"])
    return version


def _from_version_0(migrated: Migrated, document: Document, options: Options) -> Migrated:
    """Version 0 is what the earlier systems wrote, each in a way of its own."""
    dialect = _chosen(document, options)
    found = translate(document, dialect, dropped=options.dropped, text=options.text)
    if found.problems:
        raise MigrationError(found.problems)
    is_yaml = migrated.target.suffix in (".yaml", ".yml")
    target = migrated.target if is_yaml else migrated.target.with_suffix(".yaml")
    heading = modeline(target, dialect.kind) if target.resolve().is_relative_to(Path.cwd()) else []
    text = kept_text(found, migrated.after) if is_yaml else fresh_text(found, heading=heading)
    spec = proven(found, text, str(target))
    return replace(
        migrated,
        target=target,
        after=text,
        steps=(*migrated.steps, f"version 0 ({dialect.title}) → version 1 ({dialect.kind})"),
        report=(*migrated.report, *key_table(found), *setting_table(found, spec)),
        dropped=(*migrated.dropped, *(fate.old for fate in found.fates if fate.accepted)),
        took_text=bool(dialect.names_text),
    )


def _chosen(document: Document, options: Options) -> Dialect:
    if options.dialect is None:
        return recognised(document)
    return next(dialect for dialect in DIALECTS if dialect.name == options.dialect)


# Version → the step to the next one
MIGRATIONS: dict[int, Callable[[Migrated, Document, Options], Migrated]] = {0: _from_version_0}
