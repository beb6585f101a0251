"""Where the workers of a sweep see each other's locks: the folder `sweeps` of a work folder.

A worker holds the lock of the trial that it runs. The kernel lets go of it however the worker ends, so within a place
a trial without a holder is known at once to have lost its worker. Elsewhere only its pulse can tell (see `study`).
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path

from pipeline.files import sha256_bytes


class Place:
    """A folder for locks, and its identity.

    Args:
        folder: it is made where there is none. Processes with the same folder are in the same place.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".place-{os.getpid()}"
        draft.write_text(uuid.uuid4().hex, encoding="utf-8")
        with suppress(FileExistsError):
            os.link(draft, folder / "place")  # whole or not at all: another process may be doing the same
        draft.unlink()
        self.name = (folder / "place").read_text(encoding="utf-8")

    @contextmanager
    def waiting(self, *about: object) -> Iterator[None]:
        """Hold the lock of something for as long as the block goes on; wait while another process holds it."""
        with self._file(*about) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def trying(self, *about: object) -> Iterator[bool]:
        """Hold the lock of something, unless another process does; yields whether it is held now."""
        with self._file(*about) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def _file(self, *about: object) -> TextIOWrapper:
        name = sha256_bytes("/".join(map(str, about)).encode())[:16]  # 64 bits: plenty to tell locks apart
        locks = self.folder / "locks"
        locks.mkdir(exist_ok=True)
        return (locks / name).open("w", encoding="utf-8")
