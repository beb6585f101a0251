"""`foundry health`: run the checks of an export again, anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.errors import ArtifactError, ExitCode, ExportError
from pipeline.paths import OUTPUT_OF, is_registered_name

if TYPE_CHECKING:
    from pipeline.export.report import ExportHealthReport

_INSIDE = "pytorch"  # the format that is a whole model folder


@click.command(short_help="Check an export again.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--model", help="What the export was made from: a model folder, or a registered model.")
@click.option("--data", type=click.Path(path_type=Path), help="The encoded corpus, for held-out text.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def command(context: click.Context, folder: Path, model: str | None, data: Path | None, as_json: bool) -> None:
    """Run every check on the export in DIR and print what each found.

    The model that it is compared with is --model; without it, artifacts/model where that is the one it was made from,
    else the format `pytorch` inside DIR. Held-out text comes from --data; without it, beside artifacts/model, from
    artifacts/tokenizer.

    DIR may be the name of a registered model (name:tag or name@version): it stands for the newest export of that
    model, which is compared with the model itself.

    Ends with 6 when a check fails. Nothing is written.
    """
    from pipeline.export.health import ExportHealthChecker
    from pipeline.files import json_text
    from pipeline.records.registry import model_at

    try:
        if is_registered_name(str(folder)):
            model, folder = model or str(folder), _registered_export(str(folder))
        source = _source_of(folder) if model is None else model_at(model)
        report = ExportHealthChecker(source, data=data or _data_beside(source)).run_all_checks(folder)
    except ArtifactError as error:  # of an export, so it is the export that fails
        raise ExportError(error.message, where=error.where, hint=error.hint) from error
    click.echo(json_text(report.to_dict()) if as_json else _page(report), nl=False)
    if not report.all_passed:
        context.exit(ExitCode.EXPORT)


def _registered_export(name: str) -> Path:
    from pipeline.records.registry import open_registry

    with open_registry() as registry:
        return registry.get_export(name)


def _source_of(folder: Path) -> Path:
    """The model that an export was made from, or the copy of it that is among the formats.

    Raises:
        ArtifactError: the export has no readable manifest.
        ExportError: neither is here.
    """
    from pipeline.files import MANIFEST, manifest_hash, read_artefact

    made_from = read_artefact(folder / MANIFEST, "manifest", rebuild="foundry run --from export --force")["inputs"]
    here, inside = OUTPUT_OF["train"], folder / _INSIDE
    if (here / MANIFEST).is_file() and manifest_hash(here) == made_from.get("model"):
        return here
    if (inside / MANIFEST).is_file():
        return inside
    raise ExportError(
        "the model that the export was made from is not here", where=str(folder), hint="pass its folder: --model DIR"
    )


def _data_beside(source: Path) -> Path | None:
    """What the model of this project was trained on; of another model, nothing is known."""
    ours = source == OUTPUT_OF["train"] and OUTPUT_OF["tokenizer"].is_dir()
    return OUTPUT_OF["tokenizer"] if ours else None


def _page(report: ExportHealthReport) -> str:
    """The report for a terminal: a line for each check, the score, what to do."""
    lines = [f"{check.status:8} {check.check_name}: {check.message}" for check in report.checks]
    count, verdict = report.summary, "sound" if report.all_passed else "not sound"
    lines += [
        "",
        f"{report.model_name}: {verdict}; health score {report.health_score:g} of 100",
        f"{count['passed']} of {count['total']} checks passed, {count['warnings']} warnings, {count['failed']} failed",
        *(f"  {advice}" for advice in report.recommendations),
    ]
    return "\n".join(lines) + "\n"
