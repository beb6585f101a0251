"""The measure of exports: what it counts for which format."""

from __future__ import annotations

from exports import Measured, checked_seconds, table

from pipeline.export.report import CheckResult, ExportHealthReport


def _report():
    report = ExportHealthReport("tiny")
    for name, seconds in (("export_integrity", 8.0), ("onnx_validation", 1.0), ("onnx_cache_validation", 2.0)):
        report.add_check(CheckResult(name, "passed", "as it should be", duration_seconds=seconds))
    return report


def test_seconds_of_a_format_are_not_those_of_one_whose_name_begins_alike():
    assert checked_seconds(_report(), "onnx") == 1
    assert checked_seconds(_report(), "onnx_cache") == 2


def test_the_table_has_a_row_for_each_format_and_says_how_the_checks_ended():
    text = table({"onnx": Measured(1.5, 2.25, 10.3)}, _report(), 12.0)

    assert "12 s; 3 of 3 checks passed, score 100." in text
    assert text.splitlines()[-1] == "| `onnx` | 1.5 | 2.2 | 10.3 |"
