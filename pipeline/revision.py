"""Which state of its git repository a project is in, as far as that can be told quickly."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_SECONDS = 2.0  # for git to answer in; a checkout that takes longer is not worth a training run's wait


def revision(folder: Path) -> dict[str, Any] | None:
    """The commit that is checked out, and whether tracked files differ from it (`dirty`).

    Returns:
        None where there is no repository, no commit or no git, or where git takes too long.
    """
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    changed = None if commit is None else _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None or changed is None else {"commit": commit.strip(), "dirty": bool(changed)}


def changes(folder: Path, *, leave_out: Sequence[str] = ()) -> str:
    """How tracked files differ from the commit that is checked out, as a patch; empty where git cannot tell.

    Args:
        folder: in the repository; only what is below it counts.
        leave_out: paths below it that do not count.
    """
    plain = ("--no-ext-diff", "--no-color")  # whatever the user's git is set to
    return _git(folder, "diff", *plain, "HEAD", "--", ".", *(f":(exclude){path}" for path in leave_out)) or ""


def _git(folder: Path, *arguments: str) -> str | None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # a question must not take the lock of the index
    try:
        done = subprocess.run(
            ["git", "-C", folder, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",  # a patch may hold bytes of any encoding
            check=False,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
