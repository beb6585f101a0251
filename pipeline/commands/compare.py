"""`foundry compare`: what changed in the spec, and what it did to the results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeGuard

import click

from pipeline.records.directions import judgement

# What most people look for, in the order of the pipeline; the rest is shown with --all.
_HEADLINES = (
    "corpus: kept.documents",
    "corpus: kept.characters",
    "tokenizer: vocab_size",
    "tokenizer: splits.validation.characters_per_token",
    "training_metrics: final_metrics.*",
    "validation: metrics.*",
    "validation: baselines.*",
    "validation: inference.rss_mb",
    "validation: inference.peak_mb",
    "validation: inference.latency_p95_ms",
    "health_report: health_score",
    "health_report: formats.*.max_abs_diff",
    "health_report: formats.*.size_mb",
    "health_report: formats.*.speedup",
)
# Never results: the spec stands above, and formats are those of the toolkit.
_NOT_RESULTS = ("training_metrics: configuration.*", "*: format_version")
_WIDEST_VALUE = 32  # characters: lists in the spec would push the other columns off the screen


@click.command(short_help="Compare spec and results with a git revision.")
@click.argument("rev", default="HEAD")
@click.option("--all", "everything", is_flag=True, help="Show every figure of the reports that changed.")
def command(rev: str, everything: bool) -> None:
    """Show how the spec and the results in this folder differ from those of a git revision.

    REV is anything git understands: a commit, a branch, a tag; without it, HEAD. Only what changed is shown.
    """
    from pipeline.commands.ask_dvc import ask_json

    rows = list(params(ask_json("params", "diff", rev)))
    changed = list(metrics(ask_json("metrics", "diff", rev)))
    results = sorted(changed, key=lambda row: row.name) if everything else headlines(changed)
    if not rows and not changed:
        click.echo(f"nothing differs from {rev}")
        return
    if rows:
        click.echo(table("spec", rev, rows))
    if rows and results:
        click.echo()
    if results:
        click.echo(table("result", rev, results))
    if len(results) < len(changed):
        click.echo(f"\n{len(changed) - len(results)} more figures differ: --all shows them")


class Row(NamedTuple):
    """One thing that changed."""

    name: str
    old: str
    new: str
    change: str


def params(difference: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[Row]:
    """The rows for `dvc params diff --json`: file → name → {old, new}."""
    for names in difference.values():
        for name, values in names.items():
            yield Row(name, _show(values.get("old")), _show(values.get("new")), "")


def metrics(difference: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[Row]:
    """The rows for `dvc metrics diff --json`: numbers only, since identifiers and times always differ."""
    for path, names in difference.items():
        report = path.rsplit("/", 1)[-1].removesuffix(".json")
        for name, values in names.items():
            old, new = values.get("old"), values.get("new")
            if not _is_number(old) and not _is_number(new):
                continue
            change = judgement(name, old, new) if _is_number(old) and _is_number(new) else ""
            full = f"{report}: {name}"
            if not any(fnmatchcase(full, pattern) for pattern in _NOT_RESULTS):
                yield Row(full, _show(old), _show(new), change)


def headlines(rows: list[Row]) -> list[Row]:
    """The rows that most people look for, in the order of the pipeline."""
    return [
        row
        for pattern in _HEADLINES
        for row in sorted(rows, key=lambda row: row.name)
        if fnmatchcase(row.name, pattern)
    ]


def table(heading: str, rev: str, rows: list[Row]) -> str:
    """Rows as aligned text under a heading."""
    lines = [Row(heading, rev, "now", "change" if any(row.change for row in rows) else ""), *rows]
    widths = [max(len(row[column]) for row in lines) for column in range(3)]
    shown = [
        f"{row.name:<{widths[0]}}  {row.old:>{widths[1]}}  {row.new:>{widths[2]}}  {row.change}".rstrip()
        for row in lines
    ]
    return "\n".join([shown[0], "-" * max(map(len, shown)), *shown[1:]])


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _show(value: Any) -> str:
    if value is None:
        return "-"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _WIDEST_VALUE else text[: _WIDEST_VALUE - 1] + "…"
