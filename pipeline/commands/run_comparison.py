"""How recorded runs differ: in their settings, and in what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.commands.run_tables import aligned, csv_text, figure, short
from pipeline.records.directions import direction, judgement

_LABELS = ("schema_version", "kind", "name", "notes")  # say which document it is, not what it does
_WIDEST_VALUE = 32  # characters: lists in a spec would push the other columns off the screen

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """What differs between runs.

    Attributes:
        runs: their identities; the others are compared with the first.
        settings: dotted setting → its value in each run; None where it has none.
        metrics: name → its value in each run: the best, or the last where neither way is better.
    """

    runs: list[str]
    settings: dict[str, list[Any]]
    metrics: dict[str, list[float | None]]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON: values by identity, and for each metric its change from the first run."""
        metrics = {
            name: {
                "better": {"min": "lower", "max": "higher", None: None}[direction(name)],
                "values": dict(zip(self.runs, values, strict=True)),
                "changes": dict(zip(self.runs[1:], changes(values), strict=True)),
            }
            for name, values in self.metrics.items()
        }
        settings = {name: dict(zip(self.runs, values, strict=True)) for name, values in self.settings.items()}
        return {"runs": self.runs, "settings": settings, "metrics": metrics}


def compared(records: Sequence[Record], *, everything: bool) -> Comparison:
    """Compare runs.

    Args:
        records: as `ExperimentDB.get_record` returns them.
        everything: every metric; else those that differ and have a better and a worse.
    """
    settings = [dict(_leaves(record["config"])) for record in records]
    metrics = [_values(record["metrics"]) for record in records]
    by_name = {
        name: [one.get(name) for one in metrics] for name in dict.fromkeys(name for one in metrics for name in one)
    }
    return Comparison(
        runs=[record["run_id"] for record in records],
        settings={
            name: values
            for name in dict.fromkeys(name for one in settings for name in one)
            if _differ(values := [one.get(name) for one in settings])
        },
        metrics={
            name: values
            for name, values in by_name.items()
            if everything or (_differ(values) and direction(name) is not None and not name.startswith("export/"))
        },
    )


def comparison_text(comparison: Comparison) -> str:
    """A comparison as tables."""
    if not comparison.settings and not comparison.metrics:
        return "nothing differs"
    return "\n\n".join(aligned(headings, rows) for headings, rows in tables(comparison))


def tables(comparison: Comparison) -> Iterator[tuple[list[str], list[list[str]]]]:
    """The tables of a comparison that have rows: headings and cells."""
    first, *others = [short(run) for run in comparison.runs]
    if comparison.settings:
        rows = [[name, *map(_shown, values)] for name, values in comparison.settings.items()]
        yield ["setting", first, *others], rows
    if comparison.metrics:
        headings = ["metric", first, *(heading for other in others for heading in (other, "change"))]
        yield headings, [[name, *_judged(name, values)] for name, values in comparison.metrics.items()]


def comparison_csv(comparison: Comparison) -> str:
    """A comparison as CSV: a row for each setting and metric, a column for each run."""
    rows = [
        {"kind": kind, "name": name, **dict(zip(comparison.runs, values, strict=True))}
        for kind, differing in (("setting", comparison.settings), ("metric", comparison.metrics))
        for name, values in differing.items()
    ]
    return csv_text(rows)


def changes(values: Sequence[float | None]) -> list[float | None]:
    """How much each value but the first is above the first; None where one of them is missing."""
    first = values[0]
    return [None if first is None or value is None else value - first for value in values[1:]]


def _judged(name: str, values: Sequence[float | None]) -> Iterator[str]:
    first = values[0]
    yield figure(first)
    for value in values[1:]:
        yield figure(value)
        yield "" if first is None or value is None or value == first else judgement(name, first, value)


def _values(metrics: Sequence[Record]) -> dict[str, float]:
    """The value of each metric of a run, as `records.queries` takes it."""
    best: dict[str, float] = {}
    choose = {"min": min, "max": max}
    for row in metrics:
        name, value = row["metric_name"], row["value"]
        if value is not None:
            way = direction(name)
            best[name] = choose[way](best.get(name, value), value) if way else value
    return best


def _leaves(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if not path and key in _LABELS:
            continue
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _differ(values: Sequence[Any]) -> bool:
    return any(value != values[0] for value in values[1:])


def _shown(value: Any) -> str:
    text = figure(value)
    return text if len(text) <= _WIDEST_VALUE else text[: _WIDEST_VALUE - 1] + "…"
