"""`foundry runs`: the runs that are recorded: listed, shown, compared, exported, and read again from files and git."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline import console
from pipeline.errors import FoundryError

if TYPE_CHECKING:
    from pipeline.records.experiments import ExperimentDB

# Shown where a run of the list has them.
_USUAL = ("best_val_loss", "validation/bits_per_byte", "validation/accuracy")
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_AS_CSV = click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
_WHERE = click.option(
    "--where",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help="Only runs that fulfil this, such as best_val_loss<4.2; may be repeated.",
)


@click.group(short_help="List, show and compare the runs that are recorded.")
@click.option("--db", "path", type=click.Path(path_type=Path), help="The database. [default: .work/experiments.db]")
@click.pass_context
def command(context: click.Context, path: Path | None) -> None:
    """List, show and compare the runs that are recorded.

    RUN is the beginning of an identity, or `latest`. A NAME is a column (status, run_name, created_at, seconds, …), a
    dotted setting of the spec (training.learning_rate), or a metric (best_val_loss, validation/accuracy). A metric that
    was measured several times counts with its best value, or the last where neither way is better.
    """
    from pipeline.records.experiments import default_database

    context.obj = path or default_database()


@command.command("list", short_help="List runs, the newest first.")
@_WHERE
@click.option("--sort", metavar="NAME", help="The best first; without a better and a worse, the largest.")
@click.option("--reverse", is_flag=True, help="The other way round.")
@click.option("--show", "shown", multiple=True, metavar="NAME", help="A column more; may be repeated.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many runs.")
@click.option("--all", "everything", is_flag=True, help="Every run.")
@_AS_JSON
@_AS_CSV
@click.pass_obj
def list_command(
    path: Path,
    conditions: tuple[str, ...],
    sort: str | None,
    reverse: bool,
    shown: tuple[str, ...],
    limit: int,
    everything: bool,
    as_json: bool,
    as_csv: bool,
) -> None:
    """List runs, the newest first.

    \b
    foundry runs list --where status=completed --sort best_val_loss
    foundry runs list --where 'training.learning_rate<0.01' --show training.learning_rate
    """  # noqa: D301 - \b is how Click is told to leave lines as they are
    from pipeline.commands.run_tables import csv_text, list_text
    from pipeline.directions import direction
    from pipeline.records.queries import ALWAYS, condition, find_runs, require_known

    where = [condition(text) for text in conditions]
    named = [*(each.name for each in where), *([sort] if sort else []), *shown]
    with _opened(path) as database:
        found = find_runs(
            database,
            mode_of=direction,
            shown=[*_USUAL, *named],
            where=where,
            sort=sort or "created_at",
            descending=(sort is None or direction(sort) != "min") != reverse,
            limit=None if everything else limit,
        )
        if not found:
            require_known(database, named)
    wanted = [name for name in dict.fromkeys([*ALWAYS, *_USUAL, *named]) if name in named or _any_has(found, name)]
    rows = [{name: run[name] for name in wanted} for run in found]
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    elif as_csv:
        click.echo(csv_text(rows), nl=False)
    else:
        click.echo(list_text(rows) if rows else "no run fulfils that")


@command.command("show", short_help="Show everything about a run.")
@click.argument("run", default="latest")
@_AS_JSON
@click.pass_obj
def show_command(path: Path, run: str, as_json: bool) -> None:
    """Show everything about RUN; without it, about the newest."""
    from pipeline.commands.run_tables import show_text
    from pipeline.records.reproduce import INSTRUCTIONS
    from pipeline.records.run_files import folder_of

    with _opened(path) as database:
        record = database.get_record(database.resolve(run))
        comparisons = database.get_comparisons(record["run_id"])
    if as_json:
        click.echo(json.dumps({**record, "comparisons": comparisons}, indent=2, ensure_ascii=False))
    else:
        click.echo(show_text(record, comparisons))
        instructions = folder_of(path) / record["run_id"] / INSTRUCTIONS
        if instructions.is_file():
            click.echo(f"\nhow to get its weights again: {instructions}")


@command.command("compare", short_help="Compare two or more runs.")
@click.argument("runs", nargs=-1, required=True)
@click.option("--all", "everything", is_flag=True, help="Show every figure that differs.")
@click.option("--note", help="Keep in the database that the others were compared with the first, and why.")
@click.option("--image", type=click.Path(path_type=Path), help="Draw the curves into this .svg, .png or .pdf.")
@click.option("--html", type=click.Path(path_type=Path), help="Write tables and curves into this page.")
@click.option(
    "--curve", "curves", multiple=True, metavar="NAME", help="A metric to draw. [default: train/loss, val/loss]"
)
@_AS_JSON
@_AS_CSV
@click.pass_obj
def compare_command(
    path: Path,
    runs: tuple[str, ...],
    everything: bool,
    note: str | None,
    image: Path | None,
    html: Path | None,
    curves: tuple[str, ...],
    as_json: bool,
    as_csv: bool,
) -> None:
    """Compare RUNS with the first of them: the settings that differ, and what was measured.

    The page of --html holds all that it needs: it opens without a network.
    """
    from pipeline.commands.compare_states import state_of_record
    from pipeline.commands.run_comparison import compared, comparison_csv, comparison_text
    from pipeline.commands.run_curves import draw_states, page
    from pipeline.files import write_atomic

    if len(runs) < 2:
        raise click.UsageError("name two runs or more")
    with _opened(path) as database:
        ids = list(dict.fromkeys(database.resolve(run) for run in runs))
        if len(ids) < 2:
            raise click.UsageError("these are names of the same run")
        states = [state_of_record(database.get_record(run_id)) for run_id in ids]
        if note is not None:
            for run_id in ids[1:]:
                database.create_comparison(ids[0], run_id, note)
        development = database.compare_runs(ids)
    comparison = compared(states, everything=everything)
    if image is not None:
        draw_states(states, curves, image)
        console.say(f"drawn: {image}")
    if html is not None:
        write_atomic(html, page(states, comparison, curves))
        console.say(f"written: {html}")
    if as_json:
        click.echo(json.dumps({**comparison.to_dict(), "development": development}, indent=2, ensure_ascii=False))
    elif as_csv:
        click.echo(comparison_csv(comparison), nl=False)
    else:
        click.echo(comparison_text(comparison))


@command.command("best", short_help="Show the run with the best value of a metric.")
@click.argument("metric", default="best_val_loss")
@click.option("--mode", type=click.Choice(["min", "max"]), help="Which is best. [default: as the metric's name says]")
@_AS_JSON
@click.pass_obj
def best_command(path: Path, metric: str, mode: Any, as_json: bool) -> None:
    """Show which completed run has the best value of METRIC; without it, of best_val_loss."""
    from pipeline.directions import direction

    mode = mode or direction(metric)
    if mode is None:
        raise FoundryError(f"{metric} does not say whether less or more is better", hint="add --mode min or --mode max")
    with _opened(path) as database:
        run = database.get_best_run(metric, mode)
    if as_json:
        click.echo(json.dumps(run, indent=2, ensure_ascii=False))
    else:
        click.echo(f"{run['run_id']}  {run['run_name']}  {metric} {run['best_value']:.6g}")


@command.command("rebuild", short_help="Read runs again from their files, from reports/ and from git.")
@click.pass_obj
def rebuild_command(path: Path) -> None:
    """Make the database again, or complete it: from the files of runs, from reports/, and from every commit in git.

    Experiments of DVC are in git, too. Nothing is removed; runs that are there already stay as they are.
    """
    from pipeline.records.experiments import ExperimentDB
    from pipeline.records.rebuild import rebuild

    with ExperimentDB(path) as database:
        done = rebuild(database)
    for reason in done.unreadable:
        console.warn(f"left out: {reason}")
    click.echo(
        f"{path}: {done.from_files} runs from their files, {done.from_reports} from reports and git, "
        f"{done.known} were known"
    )


@command.command("export", short_help="Write runs as JSON, or their metrics as CSV.")
@click.argument("runs", nargs=-1)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write into this file, not to standard output.")
@_AS_CSV
@click.pass_obj
def export_command(path: Path, runs: tuple[str, ...], output: Path | None, as_csv: bool) -> None:
    """Write everything about RUNS, one JSON object a line; without RUNS, about all.

    With --csv their metrics as a table: run_id, metric_name, split, value, step, epoch.
    """
    from pipeline.commands.run_tables import csv_text
    from pipeline.files import write_atomic
    from pipeline.records.run_files import to_file

    with _opened(path) as database:
        ids = [database.resolve(run) for run in runs] or _every_id(database)
        records = [database.get_record(run_id) for run_id in ids]
    if as_csv:
        text = csv_text([{"run_id": record["run_id"], **row} for record in records for row in record["metrics"]])
    else:
        text = "".join(f"{json.dumps(to_file(record), ensure_ascii=False)}\n" for record in records)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_atomic(output, text)
        click.echo(f"{output}: {len(records)} runs")


def _any_has(runs: list[dict[str, Any]], name: str) -> bool:
    return any(run[name] is not None for run in runs)


def _every_id(database: ExperimentDB) -> list[str]:
    return [row["run_id"] for row in database.rows("SELECT run_id FROM runs ORDER BY created_at, rowid")]


def _opened(path: Path) -> ExperimentDB:
    """The database, in which runs whose process is gone are marked.

    Raises:
        FoundryError: there is none.
    """
    from pipeline.records.experiments import ExperimentDB
    from pipeline.records.run_files import mark_killed

    if not path.exists():
        hint = "`foundry run` records one; `foundry runs rebuild` reads those in reports/ and in git"
        raise FoundryError("no run is recorded here yet", where=str(path), hint=hint)
    database = ExperimentDB(path)
    for run_id in () if database.read_only else mark_killed(database):
        console.say(f"run {run_id[:8]} was killed: its process is gone")
    return database
