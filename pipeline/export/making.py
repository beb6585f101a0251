"""Exporting a model: write the formats, check each, and keep the export only if it is sound."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.export.bundle import create_export_bundle
from pipeline.export.formats import write_formats
from pipeline.export.health import ExportHealthChecker, export_settings
from pipeline.export.report import ExportHealthReport
from pipeline.export.subject import BUNDLE
from pipeline.files import manifest_hash, output_folder, verify_manifest, write_manifest


def _say_nothing(_report: ExportHealthReport) -> None:
    pass


def export_model(
    model_dir: Path,
    export_dir: Path,
    *,
    data: Path | None = None,
    tell: Callable[[ExportHealthReport], None] = _say_nothing,
    report_path: Path | None = None,
    **settings: Any,
) -> ExportHealthReport:
    """Export a trained model, and prove that each format is still the model.

    Args:
        model_dir: the model folder, of the train stage.
        export_dir: appears when everything is written and sound; what was there is replaced.
        data: the output folder of the tokenizer stage, for comparisons on held-out data.
        tell: is told the report before a failed check ends everything.
        report_path: where the caller keeps the report, for the message.
        **settings: of the section `export` of a spec, such as `formats`; the others have their defaults.

    Returns:
        The report.

    Raises:
        ArtifactError: the model folder or the data is damaged.
        ExportError: a format cannot be written, or a check failed.
    """
    complete = export_settings(settings)
    made_by = verify_manifest(model_dir, rebuild="foundry run --from train --force").get("spec_hash")
    sections, inputs = {"export": complete}, {"model": manifest_hash(model_dir)}
    described: Mapping[str, Any] = {"sections": sections, "inputs": inputs, "spec_hash": made_by}
    with output_folder(export_dir, stage="export", **described) as folder:
        written = {name: complete[name] for name in ("formats", "opset", "quantization")}
        write_formats(model_dir, folder, **written)
        # Now, and not only at the end of the block: the checks notice a file that changes from here on.
        write_manifest(folder, stage="export", **described)
        checker = ExportHealthChecker(model_dir, data=data)
        report = checker.run_all_checks(folder)
        if complete["export_bundle"] and report.all_passed:
            create_export_bundle(folder, folder / BUNDLE, health=report.to_dict(), model_dir=model_dir)
            report.add_check(checker.run_bundle_check(folder))
            shutil.rmtree(folder / BUNDLE)  # and again, with the report that says how the check of it ended
            create_export_bundle(folder, folder / BUNDLE, health=report.to_dict(), model_dir=model_dir)
        tell(report)
        report.raise_for_failures(where=report_path or export_dir)  # inside: what is not sound does not appear
    return report
