"""`foundry checkpoints`: when a run saves, what is there, whether it is sound, and away with what nobody needs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.paths import DEFAULT_SPEC

if TYPE_CHECKING:
    from pipeline.commands.checkpoint_plan import Plan
    from pipeline.commands.checkpoint_runs import Run, Saved
    from pipeline.spec import Spec

_SHOWN_STEPS = 12  # of a list, before it is cut in the middle
_HEADINGS = ("run", "experiment", "step", "epoch", "train loss", "val loss", "saved", "size", "state", "run id")


@click.group(short_help="Plan, list, verify and prune the checkpoints of training runs.")
def command() -> None:
    """Look after checkpoints: the moments of a run that training can go on from. docs/checkpoints.md explains them."""


@command.command()
@click.argument("spec", type=click.Path(path_type=Path), default=DEFAULT_SPEC)
@click.option("--json", "as_json", is_flag=True, help="Print every step as JSON.")
def plan(spec: Path, as_json: bool) -> None:
    """Show after which steps a run of SPEC would save checkpoints, and what disk they would take."""
    from pipeline.spec import load_spec

    planned = _planned(load_spec(spec))
    if as_json:
        saves = {why: [*steps] for why, steps in planned.saves.items()}
        click.echo(json.dumps({**vars(planned), "saves": saves}, indent=2))
    else:
        click.echo("\n".join(_plan_page(planned)))


def _planned(spec: Spec) -> Plan:
    from pipeline.commands.checkpoint_plan import plan_of
    from pipeline.commands.plan_pictures import pictures_for
    from pipeline.commands.plan_text import text_of
    from pipeline.spec import estimate, estimate_pictures

    settings = spec.to_dict()
    if spec.model.model_type == "cnn":
        pictures = pictures_for(spec)
        steps = estimate.steps_of_rows(settings, pictures.train, held_out=pictures.validation > 0)
        weights = estimate_pictures.weight_bytes(estimate_pictures.picture_shape_of(settings["model"], pictures))
        return plan_of(settings, steps, 3 * weights, text=f"{pictures.known}: {pictures.source}")
    text = text_of(spec)
    size = estimate.checkpoint_bytes(settings, estimate.shape_for(settings, text))
    return plan_of(settings, estimate.steps_of(settings, text), size, text=f"{text.known}: {text.source}")


def _plan_page(planned: Plan) -> Iterator[str]:
    yield f"{planned.steps:,} steps, {planned.steps_per_epoch:,} an epoch ({planned.text})"
    for why, steps in planned.saves.items():
        yield f"  {why:<12} {len(steps):>6,}   {_shown(steps)}"
    if planned.every_minutes is not None:
        yield f"  {'minutes':<12} {'':>6}   every {planned.every_minutes:g}"
    each = _size(planned.checkpoint_bytes)
    yield f"{planned.checkpoints:,} checkpoints if every evaluation finds a better model, {each} each"
    yield f"at most {planned.kept_at_once:,} on the disk and one being written: {_size(planned.disk_bytes)}"
    yield f"{planned.kept_after:,} stay after the run" if planned.kept_after else "none stays after the run"


def _shown(steps: Sequence[int]) -> str:
    if len(steps) <= _SHOWN_STEPS:
        return ", ".join(f"{step:,}" for step in steps)
    return f"{_shown(steps[: _SHOWN_STEPS // 2])}, …, {_shown(steps[-_SHOWN_STEPS // 2 :])}"


@command.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def list_(as_json: bool) -> None:
    """Show the runs that have checkpoints here, and each of these."""
    from pipeline.commands.checkpoint_runs import runs

    found = runs()
    if as_json:
        click.echo(json.dumps([run.to_dict() for run in found], indent=2))
    elif found:
        click.echo("\n".join(_table([_HEADINGS, *(_row(run, saved) for run in found for saved in run.saved)])))
    else:
        click.echo("there are no checkpoints here")


def _row(run: Run, saved: Saved) -> tuple[str, ...]:
    about = saved.metadata
    if about is None:
        return (run.name, "-", f"{saved.step:,}", "-", "-", "-", "-", _size(saved.size), "damaged", "-")
    losses = (about["metrics"].get(name) for name in ("train_loss", "val_loss"))
    train_loss, val_loss = ("-" if loss is None else f"{loss:.4f}" for loss in losses)
    when = datetime.fromisoformat(about["timestamp"]).astimezone().strftime("%Y-%m-%d %H:%M")
    step = f"{saved.step:,} of {about['total_steps']:,}"
    notes = (run.state, *(["scheduled"] if about["scheduled"] else []))
    size = _size(saved.size)
    epoch = str(about["epoch"])
    return (
        run.name, about["experiment"], step, epoch, train_loss, val_loss, when, size, ", ".join(notes), about["run_id"]
    )  # fmt: skip


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


@command.command()
@click.argument("run_names", metavar="[RUN]...", nargs=-1)
def verify(run_names: tuple[str, ...]) -> None:
    """Hash every file of every checkpoint again and compare with what was written.

    RUN names runs as `foundry checkpoints list` shows them; without it, all. Ends with 4 when one is damaged.
    """
    from pipeline.commands.checkpoint_runs import chosen
    from pipeline.errors import ArtifactError, ExitCode
    from pipeline.training.run_folder import verify_checkpoint

    damaged = 0
    for run in chosen(run_names):
        for saved in run.saved:
            try:
                verify_checkpoint(saved.folder)
            except ArtifactError as error:
                damaged += 1
                click.echo(f"damaged  {saved.folder}: {error}")
            else:
                click.echo(f"sound    {saved.folder}")
    if damaged:
        raise click.exceptions.Exit(ExitCode.TRAINING)


@command.command()
@click.argument("run_names", metavar="[RUN]...", nargs=-1)
@click.option("--keep-last", type=click.IntRange(min=0), default=1, show_default=True, help="Newest kept of each run.")
@click.option("--keep-best", type=click.IntRange(min=0), default=0, show_default=True, help="Best kept besides.")
@click.option("--monitor", default="val_loss", show_default=True, help="What makes a checkpoint good.")
@click.option("--mode", type=click.Choice(["min", "max"]), default="min", show_default=True, help="Which is best.")
@click.option("--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="Remove only what is older.")
@click.option("--all", "everything", is_flag=True, help="Remove all, also what a run would go on from.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def prune(
    run_names: tuple[str, ...],
    keep_last: int,
    keep_best: int,
    monitor: str,
    mode: str,
    older_than: float | None,
    everything: bool,
    dry_run: bool,
) -> None:
    """Remove checkpoints that no rule keeps; try --dry-run first.

    RUN names runs as `foundry checkpoints list` shows them; without it, all. Scheduled checkpoints stay, and so does
    the newest sound one of a run that has not finished, unless --all is given. A run that is training is left alone.
    """
    from pipeline import console
    from pipeline.commands.checkpoint_runs import chosen, doomed, remove_from
    from pipeline.errors import TrainingError

    limit = None if older_than is None else datetime.now(UTC).timestamp() - 86400 * older_than
    for run in chosen(run_names):
        going = doomed(
            run, last=keep_last, best=keep_best, monitor=monitor, mode=mode, before=limit, everything=everything
        )
        if dry_run:
            for saved in going:
                click.echo(f"would remove {saved.folder} ({_size(saved.size)})")
            continue
        try:
            for folder in remove_from(run, going):
                click.echo(f"removed {folder}")
        except TrainingError as error:
            console.warn(f"left alone: {error}")
