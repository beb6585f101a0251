"""What git remembers: the spec and the reports of a commit, of every commit on every branch, of DVC's experiments."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.paths import REPORTS

from .reports import KINDS

_EXPERIMENT = re.compile(r"(\w+) refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(.+)")  # commit, name: where DVC keeps them


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
    commits = _git("log", "--all", "--format=%H", "--", str(folder / "training_metrics.json")).split()
    if not commits:
        return
    with _reader() as read:
        for commit in commits:
            yield Committed(commit, read(commit, {name: folder / name for name in KINDS}))


def commit_of(name: str) -> str | None:
    """The commit that a revision or an experiment of DVC stands for; None if there is neither."""
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").strip()
    experiments = _EXPERIMENT.findall(_git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps"))
    return found or next((commit for commit, known in experiments if known == name), None)


def texts_of(commit: str, paths: Mapping[str, Path]) -> dict[str, str]:
    """What a commit holds of some files: name → text.

    Args:
        commit: its full name.
        paths: name → the file, seen from the current folder.
    """
    with _reader() as read:
        return read(commit, paths)


def subject_of(commit: str) -> str:
    """When a commit was made, and the first line of what was said of it."""
    return _git("log", "-1", "--format=%cs %s", commit).strip()


def _git(*arguments: str) -> str:
    """What git prints; nothing where it fails, as it does where there is no repository."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, errors="replace", check=False)
    return done.stdout if done.returncode == 0 else ""


@contextmanager
def _reader() -> Iterator[Callable[[str, Mapping[str, Path]], dict[str, str]]]:
    """A function that reads files of commits, by one process for all of them."""
    with subprocess.Popen(["git", "cat-file", "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as git:
        asked, answers = git.stdin, git.stdout
        assert asked is not None
        assert answers is not None

        def read(commit: str, paths: Mapping[str, Path]) -> dict[str, str]:
            # `./` is the folder one is in, which need not be the top of the repository.
            blobs = {name: _blob(asked, answers, f"{commit}:./{path.as_posix()}") for name, path in paths.items()}
            return {name: blob.decode(errors="replace") for name, blob in blobs.items() if blob}

        yield read


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
