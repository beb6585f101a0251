"""How states differ in their settings and in what was measured, as tables for a terminal, a page, a pull request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from pipeline.commands.compare_states import State
from pipeline.commands.run_tables import aligned, csv_text, figure
from pipeline.directions import direction, judgement

_LABELS = ("schema_version", "kind", "name", "notes")  # say which document it is, not what it does
_WIDEST_VALUE = 32  # characters: lists in a spec would push the other columns off the screen

# What most people look for, besides every figure whose name says which way is better; the rest is shown with --all.
_HEADLINES = (
    "corpus/kept.documents",
    "corpus/kept.characters",
    "tokenizer/vocab_size",
    "tokenizer/splits.validation.characters_per_token",
    "best_step",
    "total_*",
    "parameters",
    "baseline/*",
    "inference/rss_mb",
    "inference/peak_mb",
    "inference/latency_p95_ms",
    "export/*/max_abs_diff",
    "export/*/size_mb",
    "export/*/speedup",
)
# Of these, only the headlines.
_DETAILS = ("corpus/*", "tokenizer/*", "inference/*", "export/*")

Table = tuple[list[str], list[list[str]]]  # headings and rows


@dataclass(frozen=True)
class Comparison:
    """What differs between states.

    Attributes:
        names: theirs; the others are compared with the first.
        headings: the same, short enough for columns.
        settings: dotted setting → its value in each state; None where it has none.
        metrics: name → its value in each state: the best, or the last where neither way is better.
        others: the same for figures that differ and are not what most people look for.
    """

    names: list[str]
    headings: list[str]
    settings: dict[str, list[Any]]
    metrics: dict[str, list[float | None]]
    others: dict[str, list[float | None]]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON: values by name, and for each metric its change from the first."""
        metrics = {
            name: {
                "better": {"min": "lower", "max": "higher", None: None}[direction(name)],
                "values": dict(zip(self.names, values, strict=True)),
                "changes": dict(zip(self.names[1:], changes(values), strict=True)),
            }
            for name, values in self.metrics.items()
        }
        settings = {name: dict(zip(self.names, values, strict=True)) for name, values in self.settings.items()}
        return {"compared": self.names, "settings": settings, "metrics": metrics}


def compared(states: Sequence[State], *, everything: bool) -> Comparison:
    """Compare states.

    Args:
        states: two or more.
        everything: every figure that differs; else `others` holds those that few people look for.
    """
    settings = _side_by_side([dict(_leaves(state.settings)) for state in states])
    differing = _side_by_side([_values(state.metrics) for state in states])
    shown = {name: values for name, values in differing.items() if everything or _is_headline(name)}
    return Comparison(
        names=[state.name for state in states],
        headings=[state.heading for state in states],
        settings=settings,
        metrics=shown,
        others={name: values for name, values in differing.items() if name not in shown},
    )


def _side_by_side(states: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Name → its value in each state, where they differ; None where a state has none."""
    names = dict.fromkeys(name for state in states for name in state)
    rows = {name: [state.get(name) for state in states] for name in names}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values)}


def _is_headline(name: str) -> bool:
    if any(fnmatchcase(name, pattern) for pattern in _HEADLINES):
        return True
    return direction(name) is not None and not any(fnmatchcase(name, pattern) for pattern in _DETAILS)


# As text


def comparison_text(comparison: Comparison) -> str:
    """A comparison as tables for a terminal."""
    parts = [aligned(*table) for table in tables(comparison)]
    if comparison.others:
        parts.append(f"{_more(comparison)}: --all shows them")
    return "\n\n".join(parts) or _nothing(comparison)


def comparison_markdown(comparison: Comparison) -> str:
    """A comparison as Markdown: settings and headlines at once, every other figure folded away."""
    first, *others = [f"`{heading}`" for heading in comparison.headings]
    parts = [f"### {', '.join(others)} compared with {first}", *(_markdown(*table) for table in tables(comparison))]
    if len(parts) == 1:
        parts.append(f"{_nothing(comparison).capitalize()}.")
    if comparison.others:
        rest = _markdown(*_metric_table(comparison, comparison.others))
        parts.append(f"<details>\n<summary>{_more(comparison)}</summary>\n\n{rest}\n\n</details>")
    return "\n\n".join(parts)


def comparison_csv(comparison: Comparison) -> str:
    """A comparison as CSV: a row for each setting and metric, a column for each state."""
    rows = [
        {"kind": kind, "name": name, **dict(zip(comparison.names, values, strict=True))}
        for kind, differing in (("setting", comparison.settings), ("metric", comparison.metrics))
        for name, values in differing.items()
    ]
    return csv_text(rows)


def tables(comparison: Comparison) -> Iterator[Table]:
    """The tables of a comparison that have rows."""
    if comparison.settings:
        rows = [[name, *map(_shown, values)] for name, values in comparison.settings.items()]
        yield ["setting", *comparison.headings], rows
    if comparison.metrics:
        yield _metric_table(comparison, comparison.metrics)


def _metric_table(comparison: Comparison, metrics: Mapping[str, Sequence[float | None]]) -> Table:
    first, *others = comparison.headings
    headings = ["metric", first, *(heading for other in others for heading in (other, "change"))]
    return headings, [[name, *_judged(name, values)] for name, values in metrics.items()]


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] + ["---:"] * (len(headings) - 1), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def _more(comparison: Comparison) -> str:
    count = len(comparison.others)
    return f"{count} more figure{'' if count == 1 else 's'} differ{'s' if count == 1 else ''}"


def _nothing(comparison: Comparison) -> str:
    first, *others = comparison.headings
    return f"nothing differs between {first} and {' and '.join(others)}"


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


def _values(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The value of each metric, as `records.queries` takes it."""
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


def _shown(value: Any) -> str:
    text = figure(value)
    return text if len(text) <= _WIDEST_VALUE else text[: _WIDEST_VALUE - 1] + "…"
