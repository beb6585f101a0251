"""Recorded runs as text: a table of many, everything about one."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.console import duration

_HEADINGS = {"run_id": "run", "run_name": "name", "created_at": "began (UTC)", "seconds": "took", "exit_code": "exit"}
_SHORT_ID = 8  # characters of an identity: enough to tell a hundred thousand runs apart

Row = Mapping[str, Any]


def list_text(rows: Sequence[Row]) -> str:
    """Runs as an aligned table."""
    names = list(rows[0])
    return aligned(
        [_HEADINGS.get(name, name) for name in names], [[_cell(name, row[name]) for name in names] for row in rows]
    )


def show_text(record: Row, comparisons: Sequence[Row]) -> str:
    """Everything about a run that fits on a screen or two."""
    facts = {
        "run": record["run_id"],
        "name": record["run_name"],
        "status": " ".join(
            filter(None, [record["status"], f"(exit {record['exit_code']})" if record["exit_code"] else ""])
        ),
        "message": record["message"],
        "began": record["created_at"],
        "took": "" if record["seconds"] is None else duration(record["seconds"]),
        "commit": _commit(record),
        "spec": (record["spec_hash"] or "")[:16],
        "task": record["task_name"],
        "devices": " on ".join(filter(None, [record["strategy"], record["devices"]])),
        "sweep": record["sweep_id"],
        "notes": record["notes"],
        "training": record["training_run_id"],
    }
    lines = [f"{name:<9} {value}" for name, value in facts.items() if value]
    if record["stages"]:
        stages = [[row["stage"], row["outcome"], _cell("seconds", row["seconds"])] for row in record["stages"]]
        lines += ["", aligned(["stage", "outcome", "took"], stages)]
    if record["artifacts"]:
        left = [
            [row["artifact_type"], row["metadata"].get("sha256", "")[:16], row["filepath"]]
            for row in record["artifacts"]
        ]
        lines += ["", aligned(["artifact", "SHA-256", "path"], left)]
    if record["metrics"]:
        lines += ["", aligned(["metric", "values", "last"], _measured(record["metrics"]))]
    lines += [
        f"\ncompared with {row['baseline_run_id'][:_SHORT_ID]} → {row['candidate_run_id'][:_SHORT_ID]}: {row['notes']}"
        for row in comparisons
    ]
    return "\n".join(lines)


def aligned(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text in columns: the first one to the left, and numbers to the right."""
    lines = [list(headings), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    right = [column > 0 and all(_looks_like_number(row[column]) for row in rows) for column in range(len(headings))]
    shown = [
        "  ".join(
            f"{cell:>{width}}" if to_right else f"{cell:<{width}}"
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    ]
    return "\n".join([shown[0], "-" * max(map(len, shown)), *shown[1:]])


def csv_text(rows: Sequence[Row]) -> str:
    """Rows as CSV with a header; nothing is an empty cell."""
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def short(run_id: str) -> str:
    """What stands for an identity on a screen."""
    return run_id[:_SHORT_ID]


def figure(value: Any) -> str:
    """A value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, float):  # the database holds whole numbers as these, too
        return str(int(value)) if value.is_integer() else f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "run_id":
        return short(value)
    if name == "created_at":
        return str(value[:16]).replace("T", " ")
    if name == "seconds":
        return duration(value)
    return figure(value)


def _looks_like_number(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] == "-"


def _commit(record: Row) -> str:
    if record["git_commit"] is None:
        return ""
    lines = record["git_diff"].count("\n")
    return f"{record['git_commit'][:12]}{f' and changes that are not committed ({lines} lines)' if lines else ''}"


def _measured(metrics: Sequence[Row]) -> list[list[str]]:
    last: dict[str, tuple[int, Any]] = {}
    for row in metrics:
        count, _ = last.get(row["metric_name"], (0, None))
        last[row["metric_name"]] = (count + 1, row["value"])
    return [[name, str(count), figure(value)] for name, (count, value) in last.items()]
