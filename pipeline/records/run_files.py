"""A file for each run: what the database holds about it, and a lock for as long as it goes on.

`<work>/records/<run>.json` is written when a run begins and again when it ends, by itself: the database may be busy,
damaged or deleted, and is made again from these files. `<run>.lock` is held while the run goes on. The kernel lets go
of it however the process ends, so a run without an end and without a holder was killed.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.errors import ArtifactError
from pipeline.files import read_artefact, write_artefact

from .experiments import ExperimentDB
from .reports import rows_of_steps
from .unfinished import history_of

_GONE = "the process that ran it is gone and did not say how it ended"


def folder_of(database: Path) -> Path:
    """Where the files of the runs in a database are."""
    return database.parent / "records"


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the file of a run; `record` is what `ExperimentDB.get_record` returns."""
    write_artefact(folder / f"{record['run_id']}.json", "run_record", to_file(record))


def to_file(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its format's version in front."""
    return {"format_version": 1, **record}


def read_record(path: Path) -> dict[str, Any]:
    """Read the file of a run.

    Raises:
        ArtifactError: it is missing, damaged or of a newer version.
    """
    record: dict[str, Any] = read_artefact(path, "run_record")
    del record["format_version"]
    return record


def records_in(folder: Path) -> list[Path]:
    """The files of runs, by name."""
    return sorted(folder.glob("*.json"))


@contextmanager
def held(folder: Path, run_id: str) -> Iterator[None]:
    """Let others see that a run goes on, for as long as the block does."""
    folder.mkdir(parents=True, exist_ok=True)
    path = _lock(folder, run_id)
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # `make clean` may have been quicker


def goes_on(folder: Path, run_id: str) -> bool:
    """Whether a process holds the run."""
    try:
        with _lock(folder, run_id).open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def mark_killed(database: ExperimentDB) -> list[str]:
    """Find the runs whose process is gone, say so, and take in how far they came; returns their identities.

    Runs that a script has logged have no process that could be looked for, and stay as they are.
    """
    running = database.rows("SELECT run_id FROM runs JOIN executions USING (run_id) WHERE status = 'running'")
    folder = folder_of(database.path)
    gone = [row["run_id"] for row in running if not goes_on(folder, row["run_id"])]
    marked = [run_id for run_id in gone if database.mark_killed(run_id, _GONE)]
    for run_id in marked:
        try:
            steps = rows_of_steps(history_of(database.path, run_id))
        except ArtifactError as error:
            console.warn(f"how far the killed run {run_id[:8]} came is not known: {error}")
            continue
        record = {**database.get_record(run_id), "metrics": steps}
        database.register_run(record)
        write_record(folder, record)
    return marked


def mark_pruned(database: ExperimentDB, run_id: str, message: str) -> None:
    """Say of a run that was stopped that this was because others of its sweep are better.

    Raises:
        UnknownRunError: there is no such run.
    """
    record = {**database.get_record(run_id), "status": "pruned", "message": message}
    database.register_run(record)
    write_record(folder_of(database.path), record)


def _lock(folder: Path, run_id: str) -> Path:
    return folder / f"{run_id}.lock"
