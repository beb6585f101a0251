"""A run's folder: who may write to it, which checkpoints stand in it, and which of them stay. Imports no torch.

`<work>/runs/<fingerprint>/` belongs to one trainer at a time (a lock says which) and holds a `checkpoint-<step>/` each.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError, TrainingError
from pipeline.files import MANIFEST, json_text, read_artefact, read_text, verify_manifest

METADATA, STATE = "metadata.json", "state.json"
LOCK = "lock"
_PREFIX, _UNFINISHED = "checkpoint-", ".tmp-"


@contextmanager
def locked(run_folder: Path) -> Iterator[None]:
    """Hold a run folder for this process alone, and clear what a killed one left unfinished.

    Raises:
        TrainingError: another process holds it; the message names it.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    with (run_folder / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it when we die, however we die
        except BlockingIOError as error:
            file.seek(0)
            raise TrainingError(
                f"{_first_line(file.read())} is already training this experiment",
                where=str(run_folder),
                hint="wait for it or stop it; its checkpoints are kept",
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()}\n{os.environ.get('FOUNDRY_RECORD', '')}\n")  # see records/unfinished.py
        file.flush()
        for leftover in run_folder.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(leftover)
        yield


def holder(run_folder: Path) -> str:
    """The process that is training in a run folder, by its own words; empty when none is."""
    try:
        with (run_folder / LOCK).open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return ""
    except BlockingIOError:
        return _first_line((run_folder / LOCK).read_text(encoding="utf-8"))
    return ""


def _first_line(lock: str) -> str:
    return lock.partition("\n")[0] or "another process"


def checkpoint_folder(run_folder: Path, step: int) -> Path:
    """Where the checkpoint of a step stands."""
    return run_folder / f"{_PREFIX}{step:08d}"


def unfinished_folder(run_folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is written before it gets its name."""
    return run_folder / f"{_UNFINISHED}{checkpoint_folder(run_folder, step).name}"


def checkpoints_in(run_folder: Path) -> dict[int, Path]:
    """Step → folder of each checkpoint of a run, the oldest first."""
    found = {int(folder.name.removeprefix(_PREFIX)): folder for folder in run_folder.glob(f"{_PREFIX}*")}
    return dict(sorted(found.items()))


def read_metadata(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says about itself.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    metadata: dict[str, Any] = read_artefact(checkpoint / METADATA, "checkpoint_metadata")
    return metadata


def verify_checkpoint(checkpoint: Path) -> None:
    """Check every byte of a checkpoint, those of its manifest among them.

    Raises:
        ArtifactError: it is incomplete or damaged.
    """
    manifest = verify_manifest(checkpoint, rebuild="foundry run")
    # Nothing hashes the manifest. It has one spelling, and all in it but the version is compared with files.
    same_version = manifest["toolkit_version"] == read_metadata(checkpoint)["toolkit_version"]
    if not same_version or read_text(checkpoint / MANIFEST) != json_text(manifest):
        message = "the manifest is not as it was written: it was changed or damaged"
        raise ArtifactError(message, where=str(checkpoint / MANIFEST), hint="build it again with: foundry run")


def steps_kept(
    figures: Mapping[int, float | None], *, last: int, best: int, mode: str, scheduled: Collection[int] = ()
) -> set[int]:
    """Which checkpoints of a run stay.

    Args:
        figures: step → what makes the checkpoint good; None where that was not measured.
        last: how many of the newest.
        best: how many of those with the best figures; of equal ones the newest.
        mode: whether the lowest (`min`) or highest (`max`) figures are the best.
        scheduled: steps that stay in any case.
    """
    sign = 1 if mode == "min" else -1
    ranked = sorted((sign * figure, -step) for step, figure in figures.items() if figure is not None)
    newest = sorted(figures, reverse=True)[:last]
    return {*newest, *(-step for _, step in ranked[:best]), *(figures.keys() & set(scheduled))}


def prune(run_folder: Path, *, keep: Collection[int]) -> list[Path]:
    """Remove every checkpoint but those of some steps; returns the folders that are gone."""
    doomed = [folder for step, folder in checkpoints_in(run_folder).items() if step not in keep]
    for folder in doomed:
        remove(folder)
    return doomed


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint of a run folder whose lock is held: at any moment it is whole or no checkpoint."""
    doomed = checkpoint.with_name(f"{_UNFINISHED}old-{checkpoint.name}")
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)
