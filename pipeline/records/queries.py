"""Which runs to show: filtered and sorted by columns, by settings of the spec and by metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import FoundryError

from .experiments import ExperimentDB, Mode

# What a run is called and how it went. Every other name is a setting (with a dot) or a metric.
COLUMNS = {
    "run_id": "runs.run_id",
    "run_name": "runs.run_name",
    "created_at": "runs.created_at",
    "status": "runs.status",
    "task_name": "runs.task_name",
    "modality": "runs.modality",
    "strategy": "runs.strategy",
    "devices": "runs.devices",
    "sweep_id": "runs.sweep_id",
    "seconds": "executions.seconds",
    "exit_code": "executions.exit_code",
    "origin": "executions.origin",
    "spec_hash": "executions.spec_hash",
    "training_run_id": "executions.training_run_id",
    "git_commit": "executions.git_commit",
}
ALWAYS = ("run_id", "run_name", "created_at", "status", "seconds", "exit_code")

_OPERATORS = {"=": "IS", "!=": "IS NOT", "<": "<", "<=": "<=", ">": ">", ">=": ">="}  # IS: null is a value, too
_CONDITION = re.compile(r"\s*([\w./-]+)\s*(<=|>=|!=|=|<|>)\s*(.*?)\s*")
_OF_METRIC = "(SELECT {} FROM metrics WHERE metrics.run_id = runs.run_id AND metric_name = ?{})"
# The value of a metric in a run: the best where it is known which way is better, else the last.
_VALUE = {
    "min": _OF_METRIC.format("min(value)", ""),
    "max": _OF_METRIC.format("max(value)", ""),
    None: _OF_METRIC.format("value", " ORDER BY metric_id DESC LIMIT 1"),
}

ModeOf = Callable[[str], Mode | None]


@dataclass(frozen=True)
class Condition:
    """What a run must fulfil.

    Attributes:
        name: a column, a dotted setting or a metric.
        operator: `=`, `!=`, `<`, `<=`, `>` or `>=`.
        value: what it is compared with, as JSON would hold it.
    """

    name: str
    operator: str
    value: Any


def condition(text: str) -> Condition:
    """Read `NAME OPERATOR VALUE`: `status=completed`, `training.learning_rate<0.01`, `best_val_loss<=4.2`.

    Raises:
        FoundryError: it is something else.
    """
    parts = _CONDITION.fullmatch(text)
    if parts is None:
        hint = "NAME=VALUE, with =, !=, <, <=, > or >= between them: training.learning_rate<0.01"
        raise FoundryError(f"`{text}` is no condition", hint=hint)
    name, operator, value = parts.groups()
    try:
        return Condition(name, operator, json.loads(value))
    except ValueError:
        return Condition(name, operator, value)


def is_setting(name: str) -> bool:
    """Whether a name is that of a setting of the spec."""
    return name not in COLUMNS and "." in name and "/" not in name


def find_runs(
    database: ExperimentDB,
    *,
    mode_of: ModeOf,
    shown: Sequence[str] = (),
    where: Sequence[Condition] = (),
    sort: str = "created_at",
    descending: bool = True,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """The runs that fulfil every condition.

    Args:
        database: where they are recorded.
        mode_of: whether the lowest or the highest value of a metric is the best; None: neither.
        shown: columns, settings and metrics to return besides `ALWAYS`.
        where: the conditions.
        sort: a column, setting or metric; runs without it come last.
        descending: the largest first.
        limit: how many; None: all.

    Returns:
        For each run name → value, None where it has none.
    """
    names = list(dict.fromkeys([*ALWAYS, *shown]))
    columns = [_column(name, mode_of) for name in names]
    conditions = [(_column(each.name, mode_of), each) for each in where]
    by, by_parameter = _column(sort, mode_of)
    query = f"""
        SELECT {", ".join(f'{sql} AS "{number}"' for number, (sql, _) in enumerate(columns))}
        FROM runs LEFT JOIN executions USING (run_id)
        WHERE {" AND ".join(["1", *(f"{sql} {_OPERATORS[each.operator]} ?" for (sql, _), each in conditions)])}
        ORDER BY {by} {"DESC" if descending else "ASC"} NULLS LAST, runs.created_at DESC, runs.rowid DESC
        LIMIT ?
    """  # noqa: S608 - the names are ours
    parameters = [
        *(parameter for _, given in columns for parameter in given),
        *(parameter for (_, given), each in conditions for parameter in (*given, _comparable(each.value))),
        *by_parameter,
        -1 if limit is None else limit,
    ]
    return [dict(zip(names, row.values(), strict=True)) for row in database.rows(query, parameters)]


def require_known(database: ExperimentDB, names: Sequence[str]) -> None:
    """Insist that some run has each of these columns, settings and metrics.

    Raises:
        FoundryError: none has; names those that come close.
    """
    for name in names:
        if name in COLUMNS or database.rows(*_some_run_with(name)):
            continue
        kind = "setting" if is_setting(name) else "metric"
        hint = "`foundry runs show RUN` lists the settings and metrics of a run"
        raise FoundryError(f"no run has a {kind} {name}", where=str(database.path), hint=hint)


def _some_run_with(name: str) -> tuple[str, tuple[str, ...]]:
    if is_setting(name):
        return "SELECT 1 FROM runs WHERE json_type(config, ?) IS NOT NULL LIMIT 1", (_path(name),)
    return "SELECT 1 FROM metrics WHERE metric_name = ? LIMIT 1", (name,)


def _column(name: str, mode_of: ModeOf) -> tuple[str, tuple[str, ...]]:
    """The SQL of a name, and its parameter where it has one."""
    if name in COLUMNS:
        return COLUMNS[name], ()
    if is_setting(name):
        return "json_extract(runs.config, ?)", (_path(name),)
    return _VALUE[mode_of(name)], (name,)


def _path(setting: str) -> str:
    return "$" + "".join(f'."{key}"' for key in setting.split("."))


def _comparable(value: Any) -> Any:
    """What `json_extract` gives for a value: lists and mappings as compact text."""
    return json.dumps(value, separators=(",", ":")) if isinstance(value, list | dict) else value
