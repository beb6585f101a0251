"""`foundry schema`: what can stand in a document?"""

from __future__ import annotations

import click


@click.group(short_help="Show what can stand in each kind of document.")
def command() -> None:
    """Show the JSON Schemas that documents are checked by. docs/spec-reference.md prints them as tables."""


@command.command(name="list", short_help="List the kinds of documents.")
def list_kinds() -> None:
    """List the kinds of documents, each with what it is for."""
    from pipeline.spec.schema import kinds, schema_of

    width = max(map(len, kinds()))
    for kind in kinds():
        click.echo(f"{kind:{width}}  {schema_of(kind)['description']}")


@command.command(short_help="Print the schema of one kind.")
@click.argument("kind")
def show(kind: str) -> None:
    """Print the whole JSON Schema of one KIND of document, without references to other files."""
    from pipeline.spec.bundle import bundle_text
    from pipeline.spec.pages import known_kind

    click.echo(bundle_text(known_kind(kind)), nl=False)


@command.command(short_help="Write the single-file schemas that editors use.")
def bundle() -> None:
    """Write the schema of each kind into one file, for editors: schemas/v1/bundle/KIND.json beside the schemas."""
    from pipeline.spec.bundle import write_bundles

    for path in write_bundles():
        click.echo(str(path))
