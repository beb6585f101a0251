"""The export stage: write the formats of the spec, prove that each is still the model, write the report."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline import console
from pipeline.export.making import export_model
from pipeline.export.report import ExportHealthReport
from pipeline.paths import DEFAULT_SPEC, OUTPUT_OF, REPORTS
from pipeline.stages.door import StageCommand, stage

REPORT = REPORTS / "health_report.json"


@click.command(cls=StageCommand)
@click.option("--spec", "spec_path", type=click.Path(path_type=Path), default=DEFAULT_SPEC, show_default=True)
def main(spec_path: Path) -> None:
    """Export the trained model and check every export."""
    with stage("export", spec_path) as spec:
        export_model(
            OUTPUT_OF["train"],
            OUTPUT_OF["export"],
            data=OUTPUT_OF["tokenizer"],
            tell=_tell,
            report_path=REPORT,
            **spec.section("export"),
        )


def _tell(report: ExportHealthReport) -> None:
    """Keep the report, whatever it says, and say how each check ended."""
    report.save_json(REPORT)
    report.save_markdown(REPORT.with_suffix(".md"))
    for check in report.checks:
        console.say(f"{check.status:8} {check.check_name}: {check.message}")


if __name__ == "__main__":
    main()
