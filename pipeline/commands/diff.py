"""`foundry diff`: how two specs differ, and what the differences change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from pipeline.errors import FoundryError

if TYPE_CHECKING:
    from pipeline.spec.difference import Change, Difference
    from pipeline.spec.named import Named

_MEANING = {
    "safe": "a run under way goes on with it",
    "changes the result": "training starts afresh",
    "impossible": "another text, vocabulary or architecture, for which the weights of the first mean nothing",
}


@click.command(short_help="Show how two specs differ and what that changes.")
@click.argument("old")
@click.argument("new")
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
@click.option("--exit-code", is_flag=True, help="End with 1 when the specs differ.")
def command(old: str, new: str, as_json: bool, exit_code: bool) -> None:
    """Show how two specs differ, grouped by what a difference changes: the result, only speed, only output, nothing.

    OLD and NEW are each a file, a preset, a git revision with a path (HEAD~1:specs/experiment.yaml), a revision alone
    (its specs/experiment.yaml), `-` for standard input, or a run: the report reports/training_metrics.json, or the id
    that stands in it (or its beginning, up to a `-`), whether that report is here or in a commit.

    Values are compared with all defaults filled in, so spelling, order and comments do not show. The last line says
    whether a run of OLD could go on with NEW. Ends with 0 whether or not they differ.
    """
    from pipeline.spec.difference import classify, differences, render, stages_to_run
    from pipeline.spec.named import open_named

    if old == new == "-":
        raise FoundryError("both sides are standard input", hint="name a file for one of them")
    first, second = open_named(old), open_named(new)
    if first.spec.kind != second.spec.kind:
        message = f"{old} is of kind {first.spec.kind} and {new} of kind {second.spec.kind}"
        raise FoundryError(message, hint="only documents of one kind can be compared")
    found = differences(first.spec, second.spec)
    change, stages = classify(found), stages_to_run(found)
    if as_json:
        click.echo(json.dumps(_report(first, second, found, change, stages), indent=2, ensure_ascii=False))
    elif found:
        click.echo(f"{old} → {new}\n{render(found, first.document, second.document)}\n{verdict(change, stages)}")
    else:
        click.echo(f"{old} and {new} say the same")
    if exit_code and found:
        raise click.exceptions.Exit(1)


def verdict(change: Change, stages: list[str]) -> str:
    """What a change means for a run, and what a next run builds again, on two lines."""
    paths = f" ({', '.join(change.paths)})" if change.paths else ""
    again = f"stages that run again: {', '.join(stages)}" if stages else "no stage runs again"
    return f"{change.verdict}: {_MEANING[change.verdict]}{paths}\n{again}"


def _report(first: Named, second: Named, found: list[Difference], change: Change, stages: list[str]) -> dict[str, Any]:
    from pipeline.spec.difference import NOT_THERE
    from pipeline.spec.lock import lock_of

    return {
        "old": {"name": first.name, "hash": lock_of(first.spec).hash},
        "new": {"name": second.name, "hash": lock_of(second.spec).hash},
        "change": {"verdict": change.verdict, "paths": list(change.paths)},
        "stages": stages,
        "differences": [
            {
                "path": each.path,
                "effect": each.effect,
                "stages": list(each.stages),
                **{key: value for key in ("old", "new") if (value := getattr(each, key)) is not NOT_THERE},
            }
            for each in found
        ],
    }
