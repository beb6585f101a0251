"""`foundry set`: change values of a spec in its file."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pipeline.spec import Spec
    from pipeline.spec.document import Document
    from pipeline.spec.edit import Assignment


@click.command(short_help="Set values of a spec, keeping its comments.")
@click.argument("spec", type=click.Path(path_type=Path))
@click.argument("assignments", nargs=-1, required=True, metavar="PATH=VALUE...")
@click.option("--dry-run", is_flag=True, help="Show what would change and write nothing.")
def command(spec: Path, assignments: tuple[str, ...], dry_run: bool) -> None:
    """Set values in the file SPEC, check the result, and write it if it is right.

    PATH=VALUE... are any number of assignments like training.learning_rate=1e-3 or 'export.formats=[onnx, pytorch]';
    values are YAML. Comments, order and spelling of everything else stay as they are. A setting that is not in the
    file yet goes where its schema has it. Shows what changes, what that changes in turn, and which stages run again.
    When the result would be wrong, says why and writes nothing.
    """
    from pipeline.spec.edit import parse_assignment

    set_values(spec, [parse_assignment(text) for text in assignments], dry_run=dry_run)


def set_values(spec: Path, wanted: Sequence[Assignment], *, dry_run: bool = False) -> None:
    """Set values in a file, keeping its comments, and print what changes.

    Args:
        spec: the file.
        wanted: the values.
        dry_run: write nothing.

    Raises:
        FoundryError: a value cannot be set, or the result would be wrong; nothing is written.
    """
    from pipeline.commands.diff import verdict
    from pipeline.files import write_atomic
    from pipeline.spec import SpecError
    from pipeline.spec.difference import classify, differences, render, stages_to_run
    from pipeline.spec.document import parse_document, read_document
    from pipeline.spec.edit import edit
    from pipeline.spec.load import build_spec

    before = read_document(spec)
    raw = spec.read_bytes()
    mark = codecs.BOM_UTF8 if raw.startswith(codecs.BOM_UTF8) else b""
    edited = edit(before, raw.removeprefix(mark).decode(), wanted).encode()
    after = parse_document(edited, str(spec))
    try:
        result = build_spec(after, kind=None)
    except SpecError as error:
        error.hint = f"nothing was written; {spec} must be right after the change"
        raise
    old = _spec_or_none(before)
    known = {(warning.code, warning.path) for warning in old.warnings} if old else set()
    for warning in result.warnings:
        if (warning.code, warning.path) not in known:
            click.echo(str(warning), err=True)
    if not dry_run:
        write_atomic(spec, mark + edited)
    click.echo(f"{spec}: nothing written" if dry_run else f"{spec}: written")
    if old is None:
        click.echo("it was wrong before" if dry_run else "it was wrong before and is right now")
    elif found := differences(old, result):
        click.echo(f"{render(found, before, after)}\n{verdict(classify(found), stages_to_run(found))}")
    else:
        click.echo("it says the same as before")


def _spec_or_none(document: Document) -> Spec | None:
    from pipeline.spec import SpecError
    from pipeline.spec.load import build_spec

    try:
        return build_spec(document, kind=None)
    except SpecError:
        return None
