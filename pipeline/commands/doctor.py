"""`foundry doctor`: can the pipeline run here?"""

from __future__ import annotations

import sys

import click

from pipeline.errors import ExitCode


@click.command(short_help="Check everything that a run needs.")
def command() -> None:
    """Check everything that `foundry run` needs, without running anything.

    Ends with 0 when all is there, and with 1 when something is missing, after saying how to mend it.
    """
    from pipeline.commands.prerequisites import CHECKS

    failed = False
    for name, check in CHECKS.items():
        finding = check()
        failed |= not finding.ok
        click.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {name:<16} {finding.detail}")
        if not finding.ok:
            click.echo(f"      {'':<16} hint: {finding.hint}")
    if failed:
        sys.exit(ExitCode.PREREQUISITES)
