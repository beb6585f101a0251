"""`foundry compare`: what differs between commits, experiments, runs and this folder."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pipeline import console


@click.command(short_help="Compare settings and results: commits, experiments, runs, this folder.")
@click.argument("revs", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Show every figure that differs.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown, for a pull request.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option("--html", type=click.Path(path_type=Path), help="Write tables and curves into this page.")
@click.option(
    "--curve", "curves", multiple=True, metavar="NAME", help="A metric to draw. [default: train/loss, val/loss]"
)
def command(
    revs: tuple[str, ...],
    everything: bool,
    as_markdown: bool,
    as_json: bool,
    as_csv: bool,
    html: Path | None,
    curves: tuple[str, ...],
) -> None:
    """Show how settings and results differ from those of the first of REVS.

    Each REV is what git understands (a commit, a branch, a tag), an experiment of DVC, a recorded run (the beginning of
    its identity, or `latest`), or `now`: this folder as it is. One REV is compared with this folder; without any, HEAD
    is.

    \b
    foundry compare                        # this folder with HEAD
    foundry compare main v1.0 exp-fast now # four, beside each other
    foundry compare main --markdown        # for a pull request

    Only what differs is shown, of the results those that most people look for. The page of --html opens without a
    network.
    """  # noqa: D301 - \b is how Click is told to leave lines as they are
    from pipeline.commands.compare_states import NOW, find_state
    from pipeline.commands.run_comparison import compared, comparison_csv, comparison_markdown, comparison_text
    from pipeline.commands.run_curves import page
    from pipeline.files import write_atomic

    names = list(dict.fromkeys(revs if len(revs) > 1 else (*(revs or ("HEAD",)), NOW)))
    states = {state.name: state for state in map(find_state, names)}
    if len(states) < 2:
        raise click.UsageError("these are names of the same thing")
    comparison = compared(list(states.values()), everything=everything)
    if html is not None:
        write_atomic(html, page(list(states.values()), comparison, curves))
        console.say(f"written: {html}")
    if as_json:
        click.echo(json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False))
    elif as_csv:
        click.echo(comparison_csv(comparison), nl=False)
    else:
        click.echo(comparison_markdown(comparison) if as_markdown else comparison_text(comparison))
