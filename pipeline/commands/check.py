"""`foundry check`: is a spec right?"""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.paths import DEFAULT_SPEC


@click.command(short_help="Check a spec and show everything that is wrong with it.")
@click.argument("spec", type=click.Path(path_type=Path), default=DEFAULT_SPEC)
def command(spec: Path) -> None:
    """Check a spec against its schema and show everything that is wrong with it.

    SPEC is a YAML or JSON file; without it, specs/experiment.yaml. Ends with 0 when the spec is right and with 1
    when it is not. Warnings do not count.
    """
    from pipeline.spec import load_spec

    checked = load_spec(spec)
    for warning in checked.warnings:
        click.echo(str(warning), err=True)
    click.echo(f"{spec}: ok ({checked.name})")
