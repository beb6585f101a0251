"""What a sweep has found: the figures behind its report, and the report as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from .study import Sweep, ranked
from .trials import STATES, Trial

_MOST = 10  # trials in the table of the best
# Two completed trials give Optuna something to compare; below a handful its shares are little more than chance.
_FEW = 5


@dataclass(frozen=True)
class Summary:
    """What a sweep has found.

    Attributes:
        name: of the sweep.
        sweep_id: in the records.
        about: what people want to know of it first: name → text.
        objective: the figure that decides.
        maximized: whether more of it is better.
        space: dotted setting → its dimension.
        trials: all, by number.
        best: the completed ones, the best first.
        importance: setting → its share, of 1, in how good trials are; the largest first. Empty where it is not known.
    """

    name: str
    sweep_id: str
    about: Mapping[str, str]
    objective: str
    maximized: bool
    space: Mapping[str, Any]
    trials: Sequence[Trial]
    best: Sequence[Trial]
    importance: Mapping[str, float]

    @property
    def history(self) -> list[tuple[int, float, float]]:
        """Number, objective and the best objective so far of each completed trial, by number."""
        known = [(trial.number, float(trial.objective or 0.0)) for trial in self.trials if trial.state == "completed"]
        so_far = accumulate((value for _, value in known), max if self.maximized else min)
        return [(number, value, top) for (number, value), top in zip(known, so_far, strict=True)]


def summary(sweep: Sweep) -> Summary:
    """Gather what a sweep has found.

    Raises:
        FoundryError: no trial has been completed.
    """
    document, trials = sweep.document, sweep.trials()
    counts = {state: sum(trial.state == state for trial in trials) for state in STATES}
    drawn = "" if document["method"] == "grid" else f", seed {document['seed']}"
    return Summary(
        name=sweep.name,
        sweep_id=sweep.sweep_id,
        about={
            "base": document["base"],
            "method": f"{document['method']}{drawn}",
            "objective": f"{document['objective']}, {sweep.direction}d",
            "pruning": document["pruning"]["pruner"] or "none",
            "trials": ", ".join(f"{count} {state}" for state, count in counts.items() if count),
            "killed and gone on": str(sum(trial.kills for trial in trials)),
            "sweep": sweep.sweep_id,
        },
        objective=document["objective"],
        maximized=sweep.direction == "maximize",
        space=document["space"],
        trials=trials,
        best=ranked(trials, sweep.direction, or_else=sweep.name),
        importance=sweep.importance(),
    )


def tables(found: Summary) -> list[tuple[str, list[str], list[list[str]]]]:
    """The tables of a report: title, headings, rows."""
    paths = list(found.space)
    made: list[tuple[str, list[str], list[list[str]]]] = [
        ("The sweep", ["what", "value"], [[name, text] for name, text in found.about.items()]),
        (
            "Best trials",
            ["trial", found.objective, *paths, "run"],
            [
                [str(trial.number), number_text(trial.objective), *values_of(trial, paths), trial.run_id[:8]]
                for trial in found.best[:_MOST]
            ],
        ),
    ]
    if found.importance:
        shares = [[path, f"{share:.0%}"] for path, share in found.importance.items()]
        made.append((_importance_title(found), ["setting", "share"], shares))
    if others := [trial for trial in found.trials if trial.state != "completed"]:
        rows = [
            [str(trial.number), trial.state, *values_of(trial, paths), _first_line(trial.message)] for trial in others
        ]
        made.append(("Other trials", ["trial", "state", *paths, "why"], rows))
    return made


def markdown(found: Summary) -> str:
    """The report as Markdown."""
    parts = [f"# Sweep {found.name}"]
    for title, headings, rows in tables(found):
        cells = [headings, ["---"] * len(headings), *([_escaped(cell) for cell in row] for row in rows)]
        parts += [f"## {title}", "\n".join(f"| {' | '.join(row)} |" for row in cells)]
    better = [(number, value) for number, value, top in _improvements(found)]
    steps = "\n".join(f"* trial {number}: {number_text(value)}" for number, value in better)
    return "\n\n".join([*parts, "## How the best was found", steps]) + "\n"


def values_of(trial: Trial, paths: Iterable[str]) -> list[str]:
    """The values of a trial as text, for these settings."""
    return [number_text(trial.values[path]) if path in trial.values else "" for path in paths]


def number_text(value: Any) -> str:
    """A value as people read it: six digits of a number that is no integer, else JSON."""
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value)


def _improvements(found: Summary) -> list[tuple[int, float, float]]:
    """The rows of the history at which a new best was found."""
    rows = found.history
    return [row for before, row in zip([None, *rows], rows, strict=False) if before is None or row[2] != before[2]]


def _importance_title(found: Summary) -> str:
    return "Importance" + (f" (of {len(found.best)} trials only: a hint at most)" if len(found.best) < _FEW else "")


def _first_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    # What a wrong spec is called stands on the first line, what is wrong with it on the next.
    return " ".join(lines[:2])


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
