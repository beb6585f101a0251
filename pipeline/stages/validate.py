"""The validate stage: judge the trained model, write the report, insist on the budgets of the spec."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline import console
from pipeline.evaluation.budgets import missed_budgets
from pipeline.evaluation.validation import Validation, validate_model
from pipeline.export.measured import measure_inference
from pipeline.files import MANIFEST, manifest_hash, output_folder, read_artefact, write_artefact
from pipeline.paths import DEFAULT_SPEC, OUTPUT_OF, REPORTS
from pipeline.stages.door import StageCommand, stage

REPORT = REPORTS / "validation.json"
FILES_FORMAT = 1  # of samples.json and latencies.json


@click.command(cls=StageCommand)
@click.option("--spec", "spec_path", type=click.Path(path_type=Path), default=DEFAULT_SPEC, show_default=True)
def main(spec_path: Path) -> None:
    """Judge the trained model against the budgets of the spec."""
    with stage("validate", spec_path) as spec:
        settings = spec.section("validation")
        on_budget_failure = settings.pop("on_budget_failure")
        model, tokenizer = OUTPUT_OF["train"], OUTPUT_OF["tokenizer"]
        validation = validate_model(
            model_folder=model, tokenizer_folder=tokenizer, measure=measure_inference, **settings
        )
        # That of the model, whatever the spec has become since.
        made_by = read_artefact(model / MANIFEST, "manifest").get("spec_hash")
        report = validation.report if made_by is None else {**validation.report, "spec_hash": made_by}
        # Before anything can fail: a missed budget must be readable.
        write_artefact(REPORT, "validation_report", report)
        inputs = {"model": manifest_hash(model), "tokenizer": manifest_hash(tokenizer)}
        sections = {"validation": spec.section("validation")}
        with output_folder(
            OUTPUT_OF["validate"], stage="validate", sections=sections, inputs=inputs, spec_hash=made_by
        ) as folder:
            samples = {"format_version": FILES_FORMAT, "samples": validation.report["samples"]}
            write_artefact(folder / "samples.json", "samples", samples)
            latencies = {"format_version": FILES_FORMAT, "unit": "ms", "next_token": validation.latencies_ms}
            write_artefact(folder / "latencies.json", "latencies", latencies)
        show(validation)
        missed = missed_budgets(validation.verdicts, report=str(REPORT))
        if missed and on_budget_failure == "fail":
            raise missed
        if missed:
            console.warn(missed.message)


def show(validation: Validation) -> None:
    """Say how good the model is, and how it stands with each budget."""
    metrics, baselines = validation.report["metrics"], validation.report["baselines"]
    beside = ", ".join(f"{name} {value:.3f}" for name, value in baselines.items())
    figures = ", ".join(
        f"{name} {'not finite' if value is None else f'{value:.4f}'}" for name, value in metrics.items()
    )
    console.say(f"held-out: {figures}")
    unit = ", bits per byte" if validation.report["task_type"] == "lm" else ""
    console.say(f"baselines{unit}: {beside}")
    for verdict in validation.verdicts:
        console.say(f"budget {verdict.status:10} {verdict}")


if __name__ == "__main__":
    main()
