"""The export stage: write the formats of the spec, prove that each is still the model, write the report."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline import console
from pipeline.export.bundle import BUNDLE, create_export_bundle
from pipeline.export.formats import write_formats
from pipeline.export.health import check_export, markdown, raise_for_failures
from pipeline.files import (
    manifest_hash,
    output_folder,
    verify_manifest,
    write_artefact,
    write_atomic,
    write_manifest,
)
from pipeline.paths import DEFAULT_SPEC, OUTPUT_OF, REPORTS
from pipeline.stages.door import StageCommand, stage

REPORT = REPORTS / "health_report.json"


@click.command(cls=StageCommand)
@click.option("--spec", "spec_path", type=click.Path(path_type=Path), default=DEFAULT_SPEC, show_default=True)
def main(spec_path: Path) -> None:
    """Export the trained model and check every export."""
    with stage("export", spec_path) as spec:
        settings = spec.section("export")
        model = OUTPUT_OF["train"]
        made_by = verify_manifest(model, rebuild="foundry run --from train --force").get("spec_hash")
        sections, inputs = {"export": settings}, {"model": manifest_hash(model)}
        with output_folder(
            OUTPUT_OF["export"], stage="export", sections=sections, inputs=inputs, spec_hash=made_by
        ) as folder:
            write_formats(model, folder, formats=settings["formats"], opset=settings["opset"])
            # Now, and not only at the end of the block: the checks notice a file that changes from here on.
            write_manifest(folder, stage="export", sections=sections, inputs=inputs, spec_hash=made_by)
            health = check_export(folder, model)
            report = health if made_by is None else {**health, "spec_hash": made_by}
            write_artefact(REPORT, "health_report", report)
            write_atomic(REPORT.with_suffix(".md"), markdown(health))
            for check in health["checks"]:
                console.say(f"{check['status']:8} {check['check_name']}: {check['message']}")
            raise_for_failures(health, where=REPORT)  # inside: an export that is not sound does not appear
            if settings["export_bundle"]:
                create_export_bundle(folder, folder / BUNDLE, health=report, model_dir=model)


if __name__ == "__main__":
    main()
