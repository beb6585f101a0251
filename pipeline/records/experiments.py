"""Experiments: runs with their settings, metrics and artefacts, in a database that many processes write at once."""

from __future__ import annotations

import json
import math
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pipeline.closing import Closing
from pipeline.errors import FoundryError
from pipeline.paths import work_dir

from .store import Store, now

STATUSES = ("running", "completed", "failed", "interrupted", "killed", "pruned")
Mode = Literal["min", "max"]

_MIGRATIONS = Path(__file__).parent / "migrations" / "experiments"
_MEND = "move the file away and make it again: foundry runs rebuild"
# Columns of the tables that hold JSON.
_JSON = {"config", "sweep_params", "artifact_paths", "metadata", "environment"}
_OF_RUN = (
    "run_id",
    "run_name",
    "notes",
    "created_at",
    "updated_at",
    "status",
    "task_name",
    "modality",
    "strategy",
    "devices",
    "sweep_id",
    "sweep_params",
    "gist_id",
    "gist_revision",
    "gist_sha256",
    "artifact_paths",
    "config",
)
_OF_EXECUTION = (
    "origin",
    "toolkit_version",
    "finished_at",
    "seconds",
    "exit_code",
    "message",
    "spec_hash",
    "training_run_id",
    "git_commit",
    "git_dirty",
    "environment",
    "git_diff",
)
_OR_UPDATE_RUN = f"ON CONFLICT (run_id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _OF_RUN)}"
_OF_METRIC = ("metric_name", "split", "value", "step", "epoch")
_OF_STAGE = ("stage", "outcome", "seconds", "exit_code")


class UnknownRunError(FoundryError, ValueError):
    """There is no run of that identity."""


class AmbiguousRunError(UnknownRunError):
    """More than one run begins so."""


def default_database() -> Path:
    """Where runs are recorded unless another file is named."""
    return work_dir() / "experiments.db"


class ExperimentDB(Closing):
    """The runs of a project. Each method is one transaction; what it returns has been committed.

    Belongs to the process and the thread that opened it; close it, or use it as a context.

    Args:
        path: the database; None: `experiments.db` in the work folder. It is made where there is none.

    Raises:
        RecordsError: the file is damaged, of another program or of a newer version, or cannot be opened.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = default_database() if path is None else Path(path)
        self._store = Store(self.path, migrations=_MIGRATIONS, mend=_MEND)

    def close(self) -> None:
        """Close the database."""
        self._store.close()

    @property
    def read_only(self) -> bool:
        """Whether it may not be written, and so can only be asked."""
        return self._store.read_only

    # Writing

    def log_run(
        self,
        run_name: str,
        config: Mapping[str, Any],
        notes: str = "",
        *,
        run_id: str | None = None,
        task_name: str | None = None,
        modality: str | None = None,
        strategy: str | None = None,
        devices: str | None = None,
        sweep_id: str | None = None,
        sweep_params: Mapping[str, Any] | None = None,
        gist_id: str | None = None,
        gist_revision: str | None = None,
        gist_sha256: str | None = None,
        artifact_paths: Mapping[str, str] | None = None,
    ) -> str:
        """Begin a run, with the status `running`.

        Args:
            run_name: what people call it; several runs may have the same name.
            config: its settings, as JSON holds them.
            notes: anything.
            run_id: its identity; None: a new one.
            task_name: what it learns.
            modality: `text` or `vision`.
            strategy: how it uses several devices.
            devices: which.
            sweep_id: the sweep that it is a trial of.
            sweep_params: dotted setting → value that the sweep chose.
            gist_id: where its model's code came from.
            gist_revision: which version of that.
            gist_sha256: the hash of that code.
            artifact_paths: type → path of what it leaves.

        Returns:
            The identity.

        Raises:
            FoundryError: there is a run of that identity.
        """
        time = now()
        run = {
            "run_id": uuid.uuid4().hex if run_id is None else run_id,
            "run_name": run_name,
            "notes": notes,
            "created_at": time,
            "updated_at": time,
            "status": "running",
            "task_name": task_name,
            "modality": modality,
            "strategy": strategy,
            "devices": devices,
            "sweep_id": sweep_id,
            "sweep_params": sweep_params,
            "gist_id": gist_id,
            "gist_revision": gist_revision,
            "gist_sha256": gist_sha256,
            "artifact_paths": artifact_paths,
            "config": config,
        }
        try:
            with self._store.transaction() as connection:
                _insert(connection, "runs", run)
        except sqlite3.IntegrityError as error:
            hint = "leave run_id out for a new one"
            raise FoundryError(f"there is a run {run['run_id']} already", where=str(self.path), hint=hint) from error
        return str(run["run_id"])

    def register_run(self, record: Mapping[str, Any]) -> str:
        """Take in a whole run at once, as `get_record` returns it; a run of the same identity is replaced.

        Returns:
            Its identity.
        """
        run_id: str = record["run_id"]
        time = record["finished_at"] or record["created_at"]
        with self._store.transaction() as connection:
            for table in ("executions", "stages", "artifacts", "metrics"):
                connection.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))  # noqa: S608 - the names are ours
            # Not REPLACE, which would delete the row first, and with it the comparisons that refer to it.
            _insert(connection, "runs", {name: record[name] for name in _OF_RUN}, _OR_UPDATE_RUN)
            if record["origin"] is not None:
                _insert(connection, "executions", {"run_id": run_id, **{name: record[name] for name in _OF_EXECUTION}})
            for stage in record["stages"]:
                _insert(connection, "stages", {"run_id": run_id, **stage})
            for artifact in record["artifacts"]:
                _insert(connection, "artifacts", {"run_id": run_id, "created_at": time, **artifact})
            _insert_metrics(connection, run_id, record["metrics"], time)
        return run_id

    def log_metric(
        self,
        run_id: str,
        metric_name: str,
        value: float,
        *,
        split: str | None = None,
        step: int | None = None,
        epoch: int | None = None,
    ) -> None:
        """Note one figure of a run; arguments as for `log_metrics`."""
        self.log_metrics(run_id, {metric_name: value}, split, step=step, epoch=epoch)

    def log_metrics(
        self,
        run_id: str,
        metrics: Mapping[str, float],
        split: str | None = None,
        *,
        step: int | None = None,
        epoch: int | None = None,
    ) -> None:
        """Note figures of a run: all of them or, when this raises, none.

        Args:
            run_id: the run.
            metrics: name → value. NaN and infinity are kept as NULL: not a finite number.
            split: what it was measured on: `train`, `validation`, `test`.
            step: the optimizer step; None for a figure of an epoch or of the run.
            epoch: the epoch, from 1; None for a figure of the run.

        Raises:
            UnknownRunError: there is no such run.
        """
        rows = [
            {"metric_name": name, "split": split, "value": value, "step": step, "epoch": epoch}
            for name, value in metrics.items()
        ]
        with self._known(run_id), self._store.transaction() as connection:
            _insert_metrics(connection, run_id, rows, now())

    def log_artifact(
        self, run_id: str, artifact_type: str, filepath: Path | str, metadata: Mapping[str, Any] | None = None
    ) -> int:
        """Note what a run has left; returns the number of the row.

        Raises:
            UnknownRunError: there is no such run.
        """
        row = {
            "run_id": run_id,
            "artifact_type": artifact_type,
            "filepath": str(filepath),
            "metadata": metadata or {},
            "created_at": now(),
        }
        with self._known(run_id), self._store.transaction() as connection:
            return _insert(connection, "artifacts", row)

    def create_comparison(self, baseline_run_id: str, candidate_run_id: str, notes: str = "") -> int:
        """Note that a run was compared with another; returns the number of the row.

        Raises:
            UnknownRunError: there is no such run.
        """
        row = {
            "baseline_run_id": baseline_run_id,
            "candidate_run_id": candidate_run_id,
            "created_at": now(),
            "notes": notes,
        }
        with self._known(baseline_run_id, candidate_run_id), self._store.transaction() as connection:
            return _insert(connection, "comparisons", row)

    def update_run_status(self, run_id: str, status: str) -> None:
        """Say how a run is doing.

        Args:
            run_id: the run.
            status: one of `STATUSES`.

        Raises:
            UnknownRunError: there is no such run.
            FoundryError: there is no such status.
        """
        if status not in STATUSES:
            raise FoundryError(f"a run is never `{status}`", hint=f"one of {', '.join(STATUSES)}")
        with self._store.transaction() as connection:
            query = "UPDATE runs SET status = ?, updated_at = ? WHERE run_id = ?"
            changed = connection.execute(query, (status, now(), run_id)).rowcount
        if not changed:
            raise self._unknown(run_id)

    def mark_killed(self, run_id: str, message: str) -> bool:
        """Say that a run was killed, unless it has ended in the meantime; returns whether it was marked."""
        with self._store.transaction() as connection:
            query = "UPDATE runs SET status = 'killed', updated_at = ? WHERE run_id = ? AND status = 'running'"
            marked = connection.execute(query, (now(), run_id)).rowcount > 0
            if marked:
                connection.execute("UPDATE executions SET message = ? WHERE run_id = ?", (message, run_id))
        return marked

    # Reading

    def get_run(self, run_id: str) -> dict[str, Any]:
        """A run by its identity: the columns of the table, JSON parsed.

        Raises:
            UnknownRunError: there is no such run.
        """
        found = self._store.rows("SELECT * FROM runs WHERE run_id = ?", (run_id,))
        if not found:
            raise self._unknown(run_id)
        return _parsed(found[0])

    def get_record(self, run_id: str) -> dict[str, Any]:
        """Everything about a run: `get_run`, and how it was executed, its stages, artifacts and metrics.

        Raises:
            UnknownRunError: there is no such run.
        """
        run = self.get_run(run_id)
        executed = self._store.rows(f"SELECT {_names(_OF_EXECUTION)} FROM executions WHERE run_id = ?", (run_id,))  # noqa: S608 - the names are ours
        stages = self._store.rows(f"SELECT {_names(_OF_STAGE)} FROM stages WHERE run_id = ? ORDER BY rowid", (run_id,))  # noqa: S608 - the names are ours
        metrics = f"SELECT {_names(_OF_METRIC)} FROM metrics WHERE run_id = ? ORDER BY metric_id"  # noqa: S608 - the names are ours
        return {
            **run,
            **(_executed(executed[0]) if executed else dict.fromkeys(_OF_EXECUTION)),
            "stages": [dict(stage) for stage in stages],
            "artifacts": [
                {name: row[name] for name in ("artifact_type", "filepath", "metadata")}
                for row in self.get_artifacts(run_id)
            ],
            "metrics": [dict(row) for row in self._store.rows(metrics, (run_id,))],
        }

    def get_metrics(
        self, run_id: str, metric_name: str | None = None, split: str | None = None
    ) -> list[dict[str, Any]]:
        """The figures of a run in the order in which they were noted.

        Args:
            run_id: the run.
            metric_name: only this one.
            split: only those of this split.

        Raises:
            UnknownRunError: there is no such run.
        """
        self.get_run(run_id)
        query = """
            SELECT * FROM metrics WHERE run_id = :run AND (:name IS NULL OR metric_name = :name)
            AND (:split IS NULL OR split = :split) ORDER BY metric_id
        """
        found = self._store.rows(query, {"run": run_id, "name": metric_name, "split": split})
        return [dict(row) for row in found]

    def get_artifacts(self, run_id: str, artifact_type: str | None = None) -> list[dict[str, Any]]:
        """What a run has left, in the order in which it was noted.

        Raises:
            UnknownRunError: there is no such run.
        """
        self.get_run(run_id)
        query = """
            SELECT * FROM artifacts WHERE run_id = :run AND (:type IS NULL OR artifact_type = :type)
            ORDER BY artifact_id
        """
        return [_parsed(row) for row in self._store.rows(query, {"run": run_id, "type": artifact_type})]

    def get_comparisons(self, run_id: str) -> list[dict[str, Any]]:
        """The comparisons that a run is part of, in the order in which they were noted."""
        query = "SELECT * FROM comparisons WHERE ? IN (baseline_run_id, candidate_run_id) ORDER BY comparison_id"
        return [dict(row) for row in self._store.rows(query, (run_id,))]

    def list_runs(self, limit: int = 10) -> list[dict[str, Any]]:
        """The newest runs, the newest first."""
        query = "SELECT * FROM runs ORDER BY created_at DESC, rowid DESC LIMIT ?"
        return [_parsed(row) for row in self._store.rows(query, (limit,))]

    def get_runs_for_sweep(self, sweep_id: str) -> list[dict[str, Any]]:
        """The trials of a sweep, the first one first."""
        query = "SELECT * FROM runs WHERE sweep_id = ? ORDER BY created_at, rowid"
        return [_parsed(row) for row in self._store.rows(query, (sweep_id,))]

    def get_best_run(self, metric_name: str = "val/loss", mode: Mode = "min") -> dict[str, Any]:
        """The completed run with the best value of a metric, wherever in the run it was reached.

        Args:
            metric_name: the metric.
            mode: whether the lowest (`min`) or the highest (`max`) value is the best.

        Returns:
            The run, with the value as `best_value`. Of equal ones the earliest.

        Raises:
            UnknownRunError: no completed run has that metric.
        """
        best = {"min": "ASC", "max": "DESC"}[mode]
        query = f"""
            SELECT run_id, value FROM metrics JOIN runs USING (run_id)
            WHERE metric_name = ? AND value IS NOT NULL AND status = 'completed'
            ORDER BY value {best}, created_at, runs.rowid LIMIT 1
        """  # noqa: S608 - the names are ours
        found = self._store.rows(query, (metric_name,))
        if not found:
            hint = "`foundry runs show RUN` lists the metrics of a run"
            raise UnknownRunError(f"no completed run has the metric {metric_name}", where=str(self.path), hint=hint)
        return {**self.get_run(found[0]["run_id"]), "best_value": found[0]["value"]}

    def compare_runs(self, run_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """How well runs did on held-out data, by identity.

        Returns:
            Each with `final_val_loss`, `best_val_loss`, `best_epoch` and `total_epochs`; None where a run does not
            say: it has no `val/loss`.

        Raises:
            UnknownRunError: there is no such run.
        """
        return {run_id: _development(self.get_metrics(run_id)) for run_id in run_ids}

    def resolve(self, name: str) -> str:
        """The identity that begins with `name`; `latest` is the newest run.

        Raises:
            UnknownRunError: no run begins so.
            AmbiguousRunError: more than one does.
        """
        if name == "latest":
            newest = self._store.rows("SELECT run_id FROM runs ORDER BY created_at DESC, rowid DESC LIMIT 1")
            if not newest:
                raise UnknownRunError("no run is recorded", where=str(self.path), hint=_RECORD)
            return str(newest[0]["run_id"])
        query = "SELECT run_id FROM runs WHERE substr(run_id, 1, length(:name)) = :name ORDER BY run_id = :name DESC"
        found = [row["run_id"] for row in self._store.rows(query, {"name": name})]
        if not found:
            raise self._unknown(name)
        if len(found) > 1 and found[0] != name:
            raise AmbiguousRunError(f"{len(found)} runs begin with {name}", hint=f"say more: {', '.join(found[:5])}")
        return str(found[0])

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """What a query of SQL finds, for questions that no method answers."""
        return [dict(row) for row in self._store.rows(query, parameters)]

    @contextmanager
    def _known(self, *run_ids: str) -> Iterator[None]:
        """Say which run is not there, of those that the block's rows refer to."""
        try:
            yield
        except sqlite3.IntegrityError:
            for run_id in run_ids:
                self.get_run(run_id)
            raise

    def _unknown(self, run_id: str) -> UnknownRunError:
        return UnknownRunError(
            f"there is no run {run_id}", where=str(self.path), hint="`foundry runs list` shows what there is"
        )


_RECORD = "`foundry run` records one; `foundry runs rebuild` reads those in reports/ and in git"


def _names(columns: Iterable[str]) -> str:
    return ", ".join(columns)


def _insert(connection: sqlite3.Connection, table: str, row: Mapping[str, Any], otherwise: str = "") -> int:
    values = {name: _text(value) if name in _JSON else value for name, value in row.items()}
    places = _names(f":{name}" for name in values)
    query = f"INSERT INTO {table} ({_names(values)}) VALUES ({places}) {otherwise}"  # noqa: S608 - the names are ours
    cursor = connection.execute(query, values)
    return int(cursor.lastrowid or 0)


def _insert_metrics(connection: sqlite3.Connection, run_id: str, rows: Iterable[Mapping[str, Any]], time: str) -> None:
    connection.executemany(
        "INSERT INTO metrics (run_id, metric_name, split, value, step, epoch, timestamp) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (run_id, row["metric_name"], row["split"], _finite(row["value"]), row["step"], row["epoch"], time)
            for row in rows
        ],
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _text(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _parsed(row: sqlite3.Row) -> dict[str, Any]:
    return {
        name: json.loads(row[name]) if name in _JSON and row[name] is not None else row[name]
        for name in row.keys()  # noqa: SIM118 - a row iterates over its values
    }


def _executed(row: sqlite3.Row) -> dict[str, Any]:
    dirty = row["git_dirty"]  # SQLite has no booleans
    return {**_parsed(row), "git_dirty": None if dirty is None else bool(dirty)}


def _development(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    epochs = [row["epoch"] for row in metrics if row["epoch"] is not None]
    losses = [row for row in metrics if row["metric_name"] == "val/loss" and row["value"] is not None]
    best = min(losses, key=lambda row: row["value"], default=None)
    return {
        "final_val_loss": losses[-1]["value"] if losses else None,
        "best_val_loss": None if best is None else best["value"],
        "best_epoch": None if best is None else best["epoch"],
        "total_epochs": max(epochs, default=None),
    }
