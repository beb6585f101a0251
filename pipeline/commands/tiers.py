"""`foundry tiers`: is a trained model sound?"""

from __future__ import annotations

import uuid
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline import console
from pipeline.commands.options import model_folder
from pipeline.errors import ExitCode, ValidationError
from pipeline.paths import OUTPUT_OF, REPORTS

if TYPE_CHECKING:
    from pipeline.records.recording import Ending
    from pipeline.tiers.report import TiersReport

FOLDER = REPORTS / "tiers"


def _numbers(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part in ("1", "2", "3", "4") for part in parts):
        raise click.BadParameter(f"{text!r} is not a list of 1, 2, 3 and 4, such as 1,2")
    return tuple(int(part) for part in parts)


@click.command(short_help="Examine a trained model, tier by tier.")
@click.argument("spec", required=False, type=click.Path(path_type=Path))
@model_folder
@click.option("--config", "config", type=click.Path(path_type=Path), help="Another way to give SPEC.")
@click.option(
    "--tiers",
    "--tier",
    "tiers",
    callback=_numbers,
    metavar="1,2,…",
    help="Run these in place of those that SPEC asks for.",
)
@click.option("--data", type=click.Path(path_type=Path), help="The encoded corpus that the model was trained on.")
@click.option("--exports", type=click.Path(path_type=Path), help="An export of the model.")
@click.option("--strict", is_flag=True, help="End with 5 when there are warnings, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def command(
    context: click.Context,
    spec: Path | None,
    folder: Path,
    config: Path | None,
    tiers: tuple[int, ...] | None,
    data: Path | None,
    exports: Path | None,
    strict: bool,
    as_json: bool,
) -> None:
    """Examine a trained model and print what each check measured, what passes, and what to do.

    Tier 1 is soundness: shapes, gradients, weights, and proofs that nothing is seen or counted that must not be.
    Tier 2 looks at attention, attribution and robustness. Tier 3 lets a copy of the model learn for a moment. Tier 4
    compares every export with the model.

    SPEC is a document of kind `tiers`, such as specs/tiers/standard.yaml: which tiers, and where each check draws the
    line. An experiment stands for its own model and the defaults, as does no SPEC at all. For artifacts/model, the
    data is artifacts/tokenizer and the export artifacts/export, where they are there.

    Writes reports/tiers/report.json, report.md and, for tier 2, pictures. Ends with 5 when a check fails.
    """
    from pipeline.files import json_text, write_artefact, write_atomic
    from pipeline.tiers.drawings import can_draw, draw_pictures
    from pipeline.tiers.report import markdown, table
    from pipeline.tiers.run import run_tiers

    if spec is not None and config is not None:
        raise click.UsageError("SPEC and --config are the same: give one")
    settings = _settings(spec or config, folder)
    with _recorded(folder) as ending:
        found = run_tiers(
            folder,
            settings,
            tiers=tiers,
            data=data or _beside(folder, OUTPUT_OF["tokenizer"]),
            exports=exports or _export_of(folder),
            tell=lambda result: console.say(f"{result.check.name}: {result.outcome.status} ({result.seconds:.1f} s)"),
        )
        report = found.to_dict()
        write_artefact(FOLDER / "report.json", "tiers_report", report)
        ending.code = _exit_code(found, strict=strict)
        ending.message = f"the worst check ended as: {found.status}" if ending.code else ""
    pictures = []
    if any(result.outcome.figures for result in found.results):
        if can_draw():
            pictures = draw_pictures(found.results, FOLDER)
        else:
            console.warn("no pictures are drawn without matplotlib: pip install 'model-foundry[plots]'")
    write_atomic(FOLDER / "report.md", markdown(report, pictures))
    click.echo(json_text(report) if as_json else table(report), nl=False)
    context.exit(ending.code)


def _recorded(folder: Path) -> AbstractContextManager[Ending]:
    """Keep a record of the block, under the spec that the model was made by; of what is no model, none."""
    from pipeline.records.recording import Ending, recorded
    from pipeline.records.reports import TIERS_REPORT

    spec = folder / "spec.json"
    if not spec.is_file():
        return nullcontext(Ending())
    return recorded(
        uuid.uuid4().hex, lambda _: [], origin="foundry tiers", spec=spec, reports=[TIERS_REPORT], only_its_own=True
    )


def _exit_code(found: TiersReport, *, strict: bool) -> ExitCode:
    wrong = ("failed", "warning") if strict else ("failed",)
    return ExitCode.VALIDATION if found.status in wrong else ExitCode.OK


def _settings(spec: Path | None, folder: Path) -> dict[str, Any]:
    """What a document says; of an experiment nothing, but it must be the one that made the model.

    Raises:
        SpecError: the document is wrong, or of a kind that says nothing of tiers.
        ValidationError: the model is of another experiment.
    """
    from pipeline.files import MANIFEST, read_artefact
    from pipeline.spec import load_spec
    from pipeline.spec.document import read_document
    from pipeline.spec.lock import lock_of
    from pipeline.spec.schema import EXPERIMENT

    if spec is None:
        return {}
    if read_document(spec).kind != EXPERIMENT:
        return load_spec(spec, "tiers").to_dict()
    made_by = read_artefact(folder / MANIFEST, "manifest").get("spec_hash")
    if made_by != lock_of(load_spec(spec), "train").hash:
        message = f"the model in {folder} was not made by this spec"
        hint = "build it with: foundry run; or leave the spec out, and take the model as it is"
        raise ValidationError(message, where=str(spec), hint=hint)
    return {}


def _beside(folder: Path, other: Path) -> Path | None:
    """What this project made with its own model; of another model, nothing is known."""
    return other if folder == OUTPUT_OF["train"] and other.is_dir() else None


def _export_of(folder: Path) -> Path | None:
    """This project's export, where it was made from the model as it is now."""
    from pipeline.files import MANIFEST, manifest_hash, read_artefact

    export = _beside(folder, OUTPUT_OF["export"])
    if export is None or not (folder / MANIFEST).is_file():
        return None
    made_from = read_artefact(export / MANIFEST, "manifest")["inputs"].get("model")
    return export if made_from == manifest_hash(folder) else None
