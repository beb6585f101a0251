"""`foundry check`: are these files right?"""

from __future__ import annotations

from pathlib import Path

import click

from pipeline import console
from pipeline.errors import ExitCode
from pipeline.paths import DEFAULT_SPEC


@click.command(short_help="Check specs and show everything that is wrong with them.")
@click.argument("paths", nargs=-1)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "sarif", "github"]),
    default="text",
    show_default=True,
    help="How problems are written: for people, for programs, for code scanning, for GitHub's workflows.",
)
@click.option("--warnings-as-errors", is_flag=True, help="End with 1 when there are warnings, too.")
@click.option("-v", "--verbose", is_flag=True, help="Say which files were right, and which in a folder were skipped.")
def command(paths: tuple[str, ...], form: str, warnings_as_errors: bool, verbose: bool) -> None:
    """Check files against their schemas and show everything that is wrong with them.

    PATHS are YAML or JSON files, folders (everything in them that is a document of ours, or a report that the toolkit
    wrote), names of shipped presets, or `-` for standard input; without any, specs/experiment.yaml. Ends with 0 when
    all are right and with 1 when one is not. Warnings do not count. `foundry explain CODE` tells more about a problem.
    """
    from pipeline.spec.report import FORMATS, summary
    from pipeline.spec.survey import check_all

    skipped = console.say if verbose else _nothing
    checked = list(check_all(paths or (str(DEFAULT_SPEC),), Path(), skipped))
    found = FORMATS[form](checked)
    if form != "text":
        click.echo(found)
    else:
        if found:
            click.echo(f"{found}\n", err=True)
        if verbose and len(checked) > 1:
            click.echo("".join(f"{summary([file])}\n" for file in checked if not file.problems), nl=False)
        click.echo(summary(checked))
    wrong = any(file.errors or (warnings_as_errors and file.warnings) for file in checked)
    if wrong:
        raise click.exceptions.Exit(ExitCode.PREREQUISITES)


def _nothing(_line: str) -> None:
    """Where lines go that nobody asked for."""
