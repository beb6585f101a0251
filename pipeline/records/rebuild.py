"""Making the database again: from the files of runs, from reports/, and from what git remembers of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError
from pipeline.paths import REPORTS

from .experiments import ExperimentDB
from .git_history import committed_reports
from .reports import metrics_of, parse_reports, reports_in
from .run_files import folder_of, mark_killed, read_record, records_in


@dataclass
class Rebuilt:
    """What `rebuild` did.

    Attributes:
        from_files: runs that were taken from their files.
        from_reports: runs that were taken from reports, in the folder or in git.
        known: runs that were there already.
        unreadable: what could not be read, and why.
    """

    from_files: int = 0
    from_reports: int = 0
    known: int = 0
    unreadable: list[str] = field(default_factory=list)


def rebuild(database: ExperimentDB, *, reports: Path = REPORTS) -> Rebuilt:
    """Take in every run that files, reports and git know of. Nothing is removed.

    A training that several commits hold is one run, with the reports of the newest. One that a `foundry run` recorded
    is not taken from reports again.

    Args:
        database: where the runs go.
        reports: the folder of the reports, in the current folder.
    """
    done = Rebuilt()
    for path in records_in(folder_of(database.path)):
        try:
            record = read_record(path)
        except ArtifactError as error:
            done.unreadable.append(str(error))
            continue
        if _is_known(database, record):
            done.known += 1
        else:
            database.register_run(record)
            done.from_files += 1
    for where, commit, texts in _remembered(reports):
        try:
            found = parse_reports(texts, where)
        except ArtifactError as error:
            done.unreadable.append(str(error))
            continue
        if _is_recorded(database, found["training_metrics.json"]["run_id"]):
            done.known += 1
        else:
            database.register_run(_of_reports(found, commit))
            done.from_reports += 1
    mark_killed(database)
    return done


def _is_known(database: ExperimentDB, record: Mapping[str, Any]) -> bool:
    """Whether the database holds that run, and nothing older than the file does."""
    found = database.rows("SELECT updated_at FROM runs WHERE run_id = ?", (record["run_id"],))
    return bool(found) and found[0]["updated_at"] >= record["updated_at"]


def _is_recorded(database: ExperimentDB, training: str) -> bool:
    return bool(database.rows("SELECT 1 FROM executions WHERE training_run_id = ?", (training,)))


def _remembered(reports: Path) -> Iterator[tuple[str, str | None, dict[str, str]]]:
    """Where reports stand, the commit, and their texts: those of the commits, the newest first, then the folder's."""
    for committed in committed_reports(reports):
        if "training_metrics.json" in committed.texts:  # the commit that deleted it has none
            yield f"{committed.commit[:12]}:{reports}/", committed.commit, committed.texts
    texts = reports_in(reports)
    if "training_metrics.json" in texts:
        yield f"{reports}/", None, texts


def _of_reports(reports: Mapping[str, Any], commit: str | None) -> dict[str, Any]:
    """The record of a run of which nothing but its reports is known."""
    training = reports["training_metrics.json"]
    config = training["configuration"]
    ended = training["end_timestamp"]
    return {
        **about(config),
        "run_id": training["run_id"],
        "run_name": training["experiment"],
        "created_at": training["start_timestamp"],
        "updated_at": ended,
        "status": "completed",
        "config": config,
        "origin": "git",
        "toolkit_version": training["toolkit_version"],
        "finished_at": ended,
        "seconds": training["final_metrics"].get("training_seconds"),
        "spec_hash": training.get("spec_hash"),
        "training_run_id": training["run_id"],
        "git_commit": commit,
        "metrics": metrics_of(reports),
    }


def about(config: Mapping[str, Any]) -> dict[str, Any]:
    """A record of which only the settings are known."""
    task, hardware = config.get("task", {}), config.get("hardware", {})
    devices = hardware.get("devices")
    return {
        **dict.fromkeys(("sweep_id", "sweep_params", "gist_id", "gist_revision", "gist_sha256", "artifact_paths")),
        **dict.fromkeys(("finished_at", "seconds", "exit_code", "training_run_id", "git_commit", "git_dirty")),
        "notes": config.get("notes", ""),
        "task_name": task.get("task_name"),
        "modality": "vision" if str(task.get("task_type")).startswith("vision") else "text",
        "strategy": hardware.get("strategy"),
        "devices": None if devices is None else str(devices),
        "message": "",
        "environment": {},
        "git_diff": "",
        "stages": [],
        "artifacts": [],
        "metrics": [],
    }
