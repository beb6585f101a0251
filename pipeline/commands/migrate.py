"""`foundry migrate`: documents of earlier versions and earlier systems in the words of today."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pipeline.errors import FoundryError
    from pipeline.spec.migrate.migration import Migrated, Options

_SUFFIXES = (".yaml", ".yml", ".json")
_FOREIGN = ("E01", "E0603")  # codes of files in a folder that are no documents of ours, nor of an earlier system


@click.command(short_help="Carry documents of earlier versions and systems over to today's schemas.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--write", is_flag=True, help="Write the new documents instead of only showing them.")
@click.option(
    "--drop", "dropped", multiple=True, metavar="KEY", help="Go on without a key of the old file (repeatable)."
)
@click.option(
    "--text", multiple=True, metavar="PATH", help="Where the text is that the old file only names (repeatable)."
)
@click.option("--dialect", metavar="NAME", help="Which earlier system wrote the files, where their keys do not say it.")
def command(
    paths: tuple[Path, ...], write: bool, dropped: tuple[str, ...], text: tuple[str, ...], dialect: str | None
) -> None:
    """Carry documents of earlier versions and earlier systems over to today's schemas.

    PATHS are files, or folders whose YAML and JSON files are looked at. Shows what becomes of every key, where every
    setting comes from, and the edit; with --write also writes it: YAML in place, JSON as a YAML file beside it, never
    over another file. Nothing is lost silently: a key that has no meaning today is an error, until --drop gives it up.
    docs/migrating.md says what each earlier system's keys become.
    """
    from pipeline import console
    from pipeline.errors import ExitCode
    from pipeline.files import write_atomic
    from pipeline.spec.migrate.migration import Options, require_dialect

    if dialect is not None:
        require_dialect(dialect)
    options = Options(dialect, dropped, text)
    done, errors = _migrated(paths, options)
    changed = [migrated for migrated in done if migrated.steps]
    errors += _unwritable(changed)
    errors += [] if errors else _unused(options, changed)
    for migrated in done:
        click.echo(_shown(migrated))
    if errors:
        for error in errors:
            console.show_error(error)
        console.say("nothing is written")
        click.get_current_context().exit(ExitCode.PREREQUISITES)
    if not changed:
        click.echo("nothing to migrate")
    elif write:
        for migrated in changed:
            write_atomic(migrated.target, migrated.after)
            click.echo(f"written: {migrated.target}")
    else:
        click.echo("nothing is written; --write writes " + ", ".join(str(migrated.target) for migrated in changed))


def _migrated(paths: tuple[Path, ...], options: Options) -> tuple[list[Migrated], list[FoundryError]]:
    """Every document that there is, and why the others cannot be carried over."""
    from pipeline import console
    from pipeline.errors import FoundryError
    from pipeline.spec import SpecError
    from pipeline.spec.migrate.migration import migrate

    done: list[Migrated] = []
    errors: list[FoundryError] = []
    for path in paths:
        for file in _files(path):
            try:
                done.append(migrate(file, options))
            except SpecError as error:
                if file != path and all(problem.code.startswith(_FOREIGN) for problem in error.problems):
                    console.say(f"{file}: skipped: {error.problems[0].message}")
                else:
                    errors.append(error)
            except FoundryError as error:
                errors.append(error)
    return done, errors


def _files(path: Path) -> Iterator[Path]:
    """The file itself, or the files in a folder that could be documents, without what is hidden."""
    if not path.is_dir():
        yield path
        return
    for file in sorted(path.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if file.suffix in _SUFFIXES and file.is_file() and not hidden:
            yield file


def _unwritable(changed: list[Migrated]) -> list[FoundryError]:
    """Targets that hold something else, or that two files lead to."""
    from pipeline.errors import FoundryError

    errors = []
    taken: dict[Path, Path] = {}
    for migrated in changed:
        if migrated.target in taken:
            message = f"both {taken[migrated.target]} and {migrated.source} would be written to this file"
            errors.append(FoundryError(message, where=str(migrated.target), hint="migrate them one at a time"))
        elif migrated.target != migrated.source and _holds_another(migrated.target, migrated.after):
            message = f"the file exists and is not what {migrated.source} would become"
            hint = "move one of them away: a migration never writes over another file"
            errors.append(FoundryError(message, where=str(migrated.target), hint=hint))
        taken.setdefault(migrated.target, migrated.source)
    return errors


def _holds_another(path: Path, text: str) -> bool:
    return path.exists() and (not path.is_file() or path.read_bytes() != text.encode())


def _unused(options: Options, changed: list[Migrated]) -> list[FoundryError]:
    """What was said on the command line about no file at all."""
    from pipeline.errors import FoundryError

    found = {key for migrated in changed for key in migrated.dropped}
    errors = []
    if missing := [key for key in options.dropped if key not in found]:
        message = f"no file has the key that --drop names: {', '.join(missing)}"
        errors.append(FoundryError(message, hint="check its spelling; keys in sections are dotted"))
    if options.text and not any(migrated.took_text for migrated in changed):
        hint = "leave --text out: the text is the one that the file itself gives, or there is none"
        errors.append(FoundryError("no file needs to be told where its text is", hint=hint))
    return errors


def _shown(migrated: Migrated) -> str:
    """What a migration did to one file, as text."""
    from pipeline.spec.migrate.report import edit

    if not migrated.steps:
        return f"{migrated.source}: version 1 already"
    lines = [f"{migrated.source}: {', then '.join(migrated.steps)}", *migrated.report]
    difference = edit(migrated.before, migrated.after, str(migrated.source), str(migrated.target))
    return "\n".join([*lines, "", difference, ""])
