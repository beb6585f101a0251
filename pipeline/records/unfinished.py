"""The history of a training that did not end: it wrote no report, but its run folder says how far it came.

While a training goes on, `<work>/runs/<fingerprint>/` belongs to it. Its lock names, below the process, the run that
is recorded, and `record.jsonl` grows by a line with each row of the history.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.files import parse_artefact, read_text


def history_of(database: Path, run_id: str) -> list[dict[str, Any]]:
    """The rows of history.csv as far as a run came; none if it left no run folder.

    Args:
        database: of the records; the run folders are beside it.
        run_id: the identity of the run.

    Raises:
        ArtifactError: what it left is damaged.
    """
    folder = run_folder_of(database, run_id)
    if folder is None or not (record := folder / "record.jsonl").is_file():
        return []
    whole, _, _ = read_text(record).rpartition("\n")  # a process may have been killed within the last line
    lines = parse_artefact(whole, "training_record", str(record))
    return [line for line in lines if line["kind"] == "step"]


def run_folder_of(database: Path, run_id: str) -> Path | None:
    """The run folder that a training which did not end has left, if it did; arguments as for `history_of`."""
    locks = sorted((database.parent / "runs").glob("*/lock"))
    return next((lock.parent for lock in locks if run_id in read_text(lock).splitlines()[1:]), None)
