"""Measures how long an export takes: each format written and checked, and all of it, on a trained model.

python tests/bench/exports.py                        the model in artifacts/model, to the screen
python tests/bench/exports.py --write docs/export.md
"""

from __future__ import annotations

import os
import platform
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from pipeline.export.formats import FORMATS, write_formats
from pipeline.export.health import ExportHealthChecker, export_settings
from pipeline.export.report import ExportHealthReport
from pipeline.files import manifest_hash, write_manifest
from pipeline.paths import OUTPUT_OF

BEGIN, END = "<!-- exports: begin -->", "<!-- exports: end -->"


@dataclass(frozen=True)
class Measured:
    """What one format took: seconds to write and to check it, and its size in MB."""

    written: float
    checked: float
    size: float


def measure(model: Path, data: Path | None) -> tuple[dict[str, Measured], ExportHealthReport, float]:
    """Format → what it took, the report on all of them, and the seconds of everything together."""
    settings = export_settings({"formats": list(FORMATS), "quantization": "dynamic"})
    started, written = time.perf_counter(), {}
    with tempfile.TemporaryDirectory(prefix="foundry-exports-") as name:
        folder = Path(name)
        for one in FORMATS:
            before = time.perf_counter()
            write_formats(model, folder, formats=[one], opset=settings["opset"], quantization="dynamic")
            written[one] = time.perf_counter() - before
        write_manifest(folder, stage="export", sections={"export": settings}, inputs={"model": manifest_hash(model)})
        report = ExportHealthChecker(model, data=data).run_all_checks(folder)
        took = time.perf_counter() - started
        found = {
            one: Measured(seconds, checked_seconds(report, one), FORMATS[one].size(folder) / 1e6)
            for one, seconds in written.items()
        }
    return found, report, took


def checked_seconds(report: ExportHealthReport, name: str) -> float:
    """The seconds of all checks of one format, whose name may begin that of another: onnx and onnx_cache."""
    longer = tuple(f"{other}_" for other in FORMATS if other.startswith(f"{name}_"))
    checks = (check for check in report.checks if check.check_name.startswith(f"{name}_"))
    return sum(check.duration_seconds for check in checks if not check.check_name.startswith(longer))


def table(found: Mapping[str, Measured], report: ExportHealthReport, took: float) -> str:
    """The figures in Markdown."""
    summary = report.summary
    lines = [
        (
            f"All formats of {report.model_name} on {platform.machine()}, {os.cpu_count()} processors: {took:.0f} s; "
            f"{summary['passed']} of {summary['total']} checks passed, score {report.health_score:g}."
        ),
        "",
        "| format | written in, s | checked in, s | MB |",
        "|---|--:|--:|--:|",
        *(f"| `{name}` | {one.written:.1f} | {one.checked:.1f} | {one.size:.1f} |" for name, one in found.items()),
    ]
    return "\n".join(lines)


@click.command()
@click.option("--model", type=click.Path(path_type=Path), default=OUTPUT_OF["train"], show_default=True)
@click.option("--data", type=click.Path(path_type=Path), default=OUTPUT_OF["tokenizer"], show_default=True)
@click.option("--write", "page", type=click.Path(path_type=Path), help="Put the table into this page.")
def main(model: Path, data: Path, page: Path | None) -> None:
    """Export the model in MODEL to every format, and say how long each took."""
    text = table(*measure(model, data))
    if page is None:
        click.echo(text)
        return
    whole = page.read_text(encoding="utf-8")
    page.write_text(
        re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{text}\n{END}", whole, flags=re.DOTALL), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
