"""`foundry models`: register trained models, say which one is in use, and find out where each came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.paths import OUTPUT_OF, REPORTS, registry_dir

if TYPE_CHECKING:
    from pipeline.records.registered import RegisteredModel

_HEADINGS = ("id", "model", "tags", "status", "task", "val loss", "size", "exports", "registered")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")


@click.group(short_help="Register models, and say which one is in use.")
def command() -> None:
    """Keep versions of trained models, and tags such as `production` that say which one is in use.

    MODEL is the id of a registered model, `name:tag` or `name@version`. Other commands that take a model folder take
    `name:tag` and `name@version` as well. docs/registry.md explains all of it.
    """


def _figure(_context: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> dict[str, float]:
    figures = {}
    for text in texts:
        name, mark, value = text.partition("=")
        try:
            figures[name] = float(value)
        except ValueError:
            mark = ""
        if not mark or not name:
            raise click.BadParameter(f"{text!r} is not a name and a number, such as accuracy=0.91")
    return figures


@command.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=OUTPUT_OF["train"])
@click.option("--name", help="What to call the model. Default: model.model_name of its spec.")
@click.option("--version", help="Its version, such as 1.2.0. Default: what follows from how the specs differ.")
@click.option("--parent", metavar="MODEL", help="Which it comes from. Default: the one that its training started from.")
@click.option("--tag", "tags", multiple=True, help="Promote it to this. May be given several times.")
@click.option("--metric", "metrics", multiple=True, callback=_figure, metavar="NAME=NUMBER", help="A figure to keep.")
@click.option("--notes", default="", help="Words to keep with it.")
@click.option("--dry-run", is_flag=True, help="Only say which version it would be, and why.")
def register(
    folder: Path,
    name: str | None,
    version: str | None,
    parent: str | None,
    tags: tuple[str, ...],
    metrics: dict[str, float],
    notes: str,
    dry_run: bool,
) -> None:
    """Copy the model in DIR into the registry. Without DIR, the one that training made: artifacts/model.

    DIR may be an export with the format `pytorch`: its formats are then registered with the model. What
    reports/validation.json says of these very weights is kept with them.
    """
    from pipeline.records.registry import ModelRegistry

    with ModelRegistry() as registry:
        if dry_run:
            called, number, bump = registry.propose_version(folder, name=name)
            click.echo(f"{called}@{version or number}{_why(None if version else str(bump or ''))}")
            return
        measured, memory_gb = _measured(folder)
        model = registry.register_model(
            folder,
            name=name,
            version=version,
            parent=parent,
            tags=tags,
            metrics={**measured, **metrics},
            memory_req_gb=memory_gb,
            metadata={"notes": notes} if notes else {},
        )
        bump_said = registry.get_history(model.name)
        why = next(event["details"]["bump"] for event in bump_said[::-1] if event["action"] == "registered")
    click.echo(f"{model.model_id}  {model}{_why(why)}")
    click.echo(f"{model.checkpoint_path}")


def _why(bump: str | None) -> str:
    return f"  ({bump})" if bump else ""


def _measured(folder: Path) -> tuple[dict[str, float], float | None]:
    """The metrics of the last validation and the memory it took, if it was of these weights."""
    from pipeline.files import read_artefact, sha256_file
    from pipeline.records.model_folder import WEIGHTS, is_export, model_of_export

    path = REPORTS / "validation.json"
    if not path.is_file():
        return {}, None
    weights = (model_of_export(folder) if is_export(folder) else folder) / WEIGHTS
    report = read_artefact(path, "validation_report")
    if not weights.is_file() or report["model"].get("weights_sha256") != sha256_file(weights):
        return {}, None
    metrics = {name: value for name, value in report["metrics"].items() if value is not None}
    return metrics, report["inference"]["peak_mb"] / 1000


@command.command(name="list")
@click.argument("name", required=False)
@click.option("--tag", help="Only models that hold it.")
@click.option("--status", type=click.Choice(["active", "retired"]), help="Only these.")
@click.option("--task", "task_type", help="Only models of this task.")
@click.option("--metric", help="Only models that have this metric; it is shown in place of the loss.")
@click.option("--min", "least", type=float, help="The least that --metric may be.")
@click.option("--max", "most", type=float, help="The most that --metric may be.")
@_as_json
def list_(
    name: str | None,
    tag: str | None,
    status: Any,
    task_type: str | None,
    metric: str | None,
    least: float | None,
    most: float | None,
    as_json: bool,
) -> None:
    """Show the registered models, the newest first: all, or those called NAME."""
    from pipeline.files import json_text
    from pipeline.records.registry import ModelRegistry, registry_exists

    if metric is None and (least is not None or most is not None):
        raise click.UsageError("--min and --max are limits of a metric: name it with --metric")
    found: list[RegisteredModel] = []
    if registry_exists():
        with ModelRegistry() as registry:
            found = registry.list_models(
                name=name,
                tag=tag,
                status=status,
                task_type=task_type,
                metric=metric,
                min_metric_value=least,
                max_metric_value=most,
            )
    if as_json:
        click.echo(json_text([model.to_dict() for model in found]), nl=False)
    elif found:
        shown = metric or "val_loss"
        headings = (*_HEADINGS[:5], shown.replace("_", " "), *_HEADINGS[6:])
        click.echo("\n".join(_table([headings, *(_row(model, shown) for model in found)])))
    else:
        click.echo(f"no such models are registered in {registry_dir()}")


def _row(model: RegisteredModel, metric: str) -> tuple[str, ...]:
    figure = model.metrics.get(metric)
    return (
        str(model.model_id),
        str(model),
        ", ".join(model.tags) or "-",
        model.status,
        model.task_type,
        "-" if figure is None else f"{figure:.4f}",
        f"{model.model_size_mb:,.1f} MB",
        ", ".join(model.export_formats) or "-",
        model.created_at[:10],
    )


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


@command.command()
@click.argument("model")
@_as_json
def get(model: str, as_json: bool) -> None:
    """Show everything that is known of MODEL."""
    from pipeline.files import json_text
    from pipeline.records.registry import open_registry

    with open_registry() as registry:
        found = registry.get_model(model).to_dict()
    click.echo(json_text(found) if as_json else "\n".join(_lines(found)), nl=not as_json)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    for name, value in found.items():
        if isinstance(value, dict):
            yield from (f"{name}.{key}: {each}" for key, each in value.items())
        else:
            yield f"{name}: {', '.join(value) or '-' if isinstance(value, list) else '-' if value is None else value}"


@command.command()
@click.argument("model")
@click.argument("tag")
@click.option("--keep-others", is_flag=True, help="Leave the tag with other models, too.")
def promote(model: str, tag: str, keep_others: bool) -> None:
    """Give MODEL a TAG, such as production, and take it from the other models of the same name."""
    from pipeline.records.registry import open_registry

    with open_registry() as registry:
        found = registry.promote_model(model, tag, keep_others=keep_others)
    click.echo(f"{found} is {', '.join(found.tags)}")


@command.command()
@click.argument("model")
@click.option("--force", is_flag=True, help="Also when it has tags, which it loses.")
def retire(model: str, force: bool) -> None:
    """Say that MODEL is not to be used any more. Its files stay."""
    from pipeline.records.registry import open_registry

    with open_registry() as registry:
        click.echo(f"{registry.retire_model(model, force=force)} is retired")


@command.command()
@click.argument("model")
@click.option("--force", is_flag=True, help="Also when it has tags.")
def delete(model: str, force: bool) -> None:
    """Remove MODEL with all of its files. Its version is not given again."""
    from pipeline.records.registry import open_registry

    with open_registry() as registry:
        click.echo(f"{registry.delete_model(model, force=force)} is deleted")


@command.command()
@click.argument("models", metavar="MODEL MODEL...", nargs=-1, required=True)
@_as_json
def compare(models: tuple[str, ...], as_json: bool) -> None:
    """Show how models differ: their metrics, and the settings that they were trained with."""
    from pipeline.directions import judgement
    from pipeline.files import json_text
    from pipeline.records.registry import open_registry
    from pipeline.spec.difference import shown

    if len(models) == 1:
        raise click.UsageError("name at least two models")
    with open_registry() as registry:
        found = registry.compare_models(*models)
    if as_json:
        click.echo(json_text({**found, "models": [model.to_dict() for model in found["models"]]}), nl=False)
        return
    rows: list[tuple[str, ...]] = [("", *map(str, found["models"]), "last against first")]
    for name, values in found["metrics"].items():
        known = values[0] is not None and values[-1] is not None
        change = judgement(name, values[0], values[-1]) if known else ""
        rows.append((name, *("-" if value is None else f"{value:.6g}" for value in values), change))
    rows += [(path, *map(shown, values), "") for path, values in found["settings"].items()]
    click.echo("\n".join(_table(rows)))


@command.command()
@click.argument("model")
@_as_json
def lineage(model: str, as_json: bool) -> None:
    """Show which models MODEL comes from, and which come from it."""
    from pipeline.files import json_text
    from pipeline.records.registry import open_registry

    with open_registry() as registry:
        found, line = registry.get_model(model), registry.get_lineage(model)
    if as_json:
        whole = {"model": found.to_dict()} | {key: [each.to_dict() for each in line[key]] for key in line}
        click.echo(json_text(whole), nl=False)
        return
    depth = {each.model_id: place for place, each in enumerate([*line["ancestors"], found])}
    for each in line["descendants"]:
        depth[each.model_id] = depth[each.parent_model_id] + 1 if each.parent_model_id is not None else 0
    for each in [*line["ancestors"], found, *line["descendants"]]:
        mark = "  ←" if each == found else ""
        click.echo(f"{'  ' * depth[each.model_id]}{each}{mark}")


@command.command()
@click.argument("name", required=False)
@_as_json
def history(name: str | None, as_json: bool) -> None:
    """Show who did what and when: to all models, or to those called NAME, also to those that are deleted."""
    from pipeline.files import json_text
    from pipeline.records.registry import open_registry

    with open_registry() as registry:
        events = registry.get_history(name)
    if as_json:
        click.echo(json_text(events), nl=False)
        return
    for event in events:
        said = ", ".join(f"{key} {value}" for key, value in event["details"].items() if value)
        when, model = event["created_at"][:19], f"{event['name']}@{event['version']}"
        click.echo(f"{when}  {event['actor']}  {event['action']:<10}  {model}  {said}".rstrip())


@command.command(name="add-export")
@click.argument("model")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def add_export(model: str, folder: Path) -> None:
    """Copy the export in DIR, which was made from MODEL, into the registry."""
    from pipeline.records.registry import open_registry

    with open_registry() as registry:
        found = registry.add_export(model, folder)
    click.echo(f"{found} is exported as {', '.join(found.export_formats)}")


@command.command()
@click.argument("model")
@click.option("--format", "formats", multiple=True, required=True, help="Such as onnx. May be given several times.")
def export(model: str, formats: tuple[str, ...]) -> None:
    """Export MODEL, check every format against it, and keep the export with it.

    Ends with 6 when a check fails; then nothing is kept.
    """
    import tempfile

    from pipeline import console
    from pipeline.export.making import export_model
    from pipeline.records.registry import open_registry

    with open_registry() as registry, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "export"
        report = export_model(registry.get_folder(model), folder, formats=[*formats])
        for check in report.checks:
            console.say(f"{check.status:8} {check.check_name}: {check.message}")
        found = registry.add_export(model, folder)
    click.echo(f"{found} is exported as {', '.join(found.export_formats)}")


@command.command()
@click.argument("models", metavar="[MODEL]...", nargs=-1)
def verify(models: tuple[str, ...]) -> None:
    """Hash every file of models and of their exports again: of all models, or of these.

    Ends with 1 when one is not what was registered.
    """
    from pipeline.errors import ExitCode
    from pipeline.records.registry import open_registry

    damaged = 0
    with open_registry() as registry:
        chosen = [registry.get_model(model) for model in models] if models else registry.list_models()
        for model in chosen:
            problems = registry.verify(model.model_id)
            damaged += bool(problems)
            click.echo(f"{'damaged' if problems else 'sound  '}  {model}")
            for problem in problems:
                click.echo(f"         {problem}")
    if damaged:
        raise click.exceptions.Exit(ExitCode.PREREQUISITES)
