"""`foundry fmt`: put specs into the one layout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import unified_diff
from pathlib import Path

import click

from pipeline.errors import FoundryError
from pipeline.paths import DEFAULT_SPEC

_SUFFIXES = (".yaml", ".yml", ".json")


@click.command(short_help="Put specs into the one layout.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Write nothing; show what would change and end with 1 if something would.")
def command(paths: tuple[Path, ...], check: bool) -> None:
    """Put specs into the one layout: keys in the order of the schema, one spelling of numbers and text.

    PATHS are files, or folders whose YAML and JSON files are taken; without any, specs/experiment.yaml. Comments stay
    with their keys, and no value changes. All files are read and checked before the first is written.
    """
    from pipeline.files import write_atomic
    from pipeline.spec.document import read_document
    from pipeline.spec.fmt import formatted

    changed = {}
    for path in _files(paths or (DEFAULT_SPEC,)):
        document = read_document(path)
        text = path.read_bytes().decode("utf-8-sig")
        found = formatted(document, text)
        if found.encode() != path.read_bytes():
            changed[path] = (text, found)
    for path, (text, found) in changed.items():
        if check:
            click.echo(_difference(path, text, found), nl=False)
        else:
            write_atomic(path, found)
            click.echo(f"{path}: formatted")
    if not changed:
        click.echo("nothing to format")
    elif check:
        raise FoundryError(
            f"{len(changed)} file{'' if len(changed) == 1 else 's'} not formatted",
            hint=f"run: foundry fmt {' '.join(map(str, changed))}",
        )


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(found for found in path.rglob("*") if found.suffix in _SUFFIXES and found.is_file())
        else:
            yield path


def _difference(path: Path, text: str, found: str) -> str:
    lines = unified_diff(text.splitlines(), found.splitlines(), f"{path} (now)", f"{path} (formatted)", lineterm="")
    # Byte order marks, line ends and a missing last one do not show in lines.
    shown = "".join(f"{line}\n" for line in lines)
    return shown or f"{path}: other line ends, or a byte order mark\n"
