"""The reports that git remembers: of every commit on every branch, and of DVC's experiments."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.paths import REPORTS

from .reports import KINDS


@dataclass(frozen=True)
class Committed:
    """The reports of a commit.

    Attributes:
        commit: its full name.
        texts: name → what the file holds.
    """

    commit: str
    texts: dict[str, str]


def committed_reports(folder: Path = REPORTS) -> Iterator[Committed]:
    """The reports of each commit that changed one, the newest first; none where there is no repository.

    Args:
        folder: where they are, seen from the current folder.
    """
    listed = subprocess.run(
        ["git", "log", "--all", "--format=%H", "--", str(folder / "training_metrics.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    commits = listed.stdout.split()
    if not commits:
        return
    with subprocess.Popen(["git", "cat-file", "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as git:
        assert git.stdin is not None
        assert git.stdout is not None
        for commit in commits:
            blobs = {name: _blob(git.stdin, git.stdout, f"{commit}:./{folder / name}") for name in KINDS}
            yield Committed(commit, {name: blob.decode(errors="replace") for name, blob in blobs.items() if blob})


def _blob(asked: IO[bytes], answers: IO[bytes], name: str) -> bytes | None:
    """What a commit holds under a name; None if nothing."""
    asked.write(f"{name}\n".encode())
    asked.flush()
    answer = answers.readline().split()
    if answer[-1] == b"missing":
        return None
    content = answers.read(int(answer[-1]))
    answers.read(1)  # the newline after it
    return content
