"""`foundry diff-runs`: where two trainings part, and what explains it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipeline.records.ledger_difference import Parting
    from pipeline.records.run_difference import Cause, StageDifference

_WIDEST = 40  # characters of a value
_MOST_NAMED = 3  # tensors


@click.command(short_help="Find where two trainings part, and why.")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--exit-code", is_flag=True, help="End with 1 when they part.")
def command(first: str, second: str, as_json: bool, exit_code: bool) -> None:
    """Name the first stage, the optimizer step and the tensors at which two trainings part, and what explains it.

    A and B are each a model folder, a project folder, a registered model (name:tag, name@version) or a run (the
    beginning of its identity, or `latest`). What is compared is results: documents, tokens, weights, generated samples
    and exported formats; times and identities are not. For training, the ledgers tell the step.

    Ends with 0 whether or not they part.
    """
    from pipeline.files import json_text
    from pipeline.records.run_difference import compare_trainings
    from pipeline.records.trained import find_training

    found = compare_trainings(find_training(first), find_training(second))
    parted = [each for each in found if each.verdict == "differs"]
    if as_json:
        stages = [each.to_dict() for each in found]
        text = json_text({"equal": not parted, "first": parted[0].stage if parted else None, "stages": stages})
        click.echo(text, nl=False)
    else:
        click.echo("\n".join(_page(first, second, found)))
    if exit_code and parted:
        raise click.exceptions.Exit(1)


def _page(first: str, second: str, found: Sequence[StageDifference]) -> Iterator[str]:
    yield f"{first} → {second}"
    for each in found:
        yield f"  {each.stage:<10} {each.verdict}{f': {each.where}' if each.where else ''}"
        if each.verdict == "differs":
            if each.parting is not None and each.parting.tensors:
                yield f"             {_tensors(each.parting)}"
            lines = [_line(cause) for cause in each.causes]
            yield from (f"             {line}" for line in lines or ["nothing that was recorded explains it"])
    parted = [each.stage for each in found if each.verdict == "differs"]
    compared = [each.stage for each in found if each.verdict == "equal"]
    if parted:
        yield f"they part in the stage {parted[0]}"
    else:
        yield f"equal: {', '.join(compared)}" if compared else "nothing could be compared"


def _tensors(parting: Parting) -> str:
    names = ", ".join(parting.tensors[:_MOST_NAMED])
    others = f" and {len(parting.tensors) - _MOST_NAMED} more" if len(parting.tensors) > _MOST_NAMED else ""
    late = "" if parting.marked_step == parting.step else f" (at step {parting.marked_step}, the next that shows them)"
    return f"tensors: {names}{others}{late}"


def _line(cause: Cause) -> str:
    if cause.kind == "stage":
        return f"made from another output of the stage {cause.name}"
    return f"{cause.kind} {cause.name}: {_shown(cause.old)} → {_shown(cause.new)}"


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    text = str(value)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"
