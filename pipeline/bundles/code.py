"""The code of a run: a commit of a git repository and a patch on top, taken from one clone and put up in another."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pipeline.paths import REPORTS

from .errors import BundleError

# What a run writes itself is no code.
LEFT_OUT = (str(REPORTS), "dvc.lock")
_CODE = ("pipeline", "schemas", "dvc.yaml", ".dvc/config")  # what runs; the spec is packed by itself
# However the user's git is set up, the same changes give the same patch.
_PLAIN = (
    *("-c", "core.quotePath=true", "-c", "diff.algorithm=myers", "-c", "diff.suppressBlankEmpty=false"),
    *("diff", "--binary", "--full-index", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color"),
    *("--unified=3", "--inter-hunk-context=0", "--src-prefix=a/", "--dst-prefix=b/"),
)
# A patch that was recorded as text without the bytes of a file, or with bytes that were not text.
_INEXACT = re.compile(r"^Binary files .* differ$|\ufffd", re.MULTILINE)


@dataclass(frozen=True)
class Code:
    """Which code it is.

    Attributes:
        commit: the full name of the commit.
        folder: the project in its repository; empty where it is the whole of it.
        patch: how tracked files differed from the commit.
    """

    commit: str
    folder: str
    patch: bytes

    @property
    def changed(self) -> list[str]:
        """The files that the patch changes."""
        return changed_by(self.patch)


def code_here(project: Path) -> Code:
    """The code as it stands in a project.

    Raises:
        BundleError: it is in no git repository, has no commit, or git does not know all of it.
    """
    commit = git(project, "rev-parse", "--verify", "HEAD").decode().strip()
    unknown = git(project, "ls-files", "--others", "--exclude-standard", "-z", "--", *_CODE).decode().split("\0")
    if unknown[0]:
        hint = f"git add -N {unknown[0]}"
        raise BundleError("git does not know this file, so it cannot be packed", where=unknown[0], hint=hint)
    patch = git(project, *_PLAIN, "HEAD", "--", ".", *(f":(exclude){path}" for path in LEFT_OUT))
    return Code(commit, folder_of(project), patch)


def code_of_record(project: Path, commit: str, patch: str) -> Code:
    """The code that the record of a run names.

    Raises:
        BundleError: the record does not hold all of the patch.
    """
    if _INEXACT.search(patch):
        message = "uncommitted changes of the run were in files that are not UTF-8 text, which its record does not hold"
        raise BundleError(message, hint="commit them, run `foundry run --force`, and pack that run")
    return Code(commit, folder_of(project), patch.encode())


def folder_of(project: Path) -> str:
    """Where in its repository a project is; empty where it is the whole of it."""
    return git(project, "rev-parse", "--show-prefix").decode().strip().rstrip("/")


def put_up(code: Code, *, repository: Path, target: Path) -> Path:
    """Clone a repository and bring the clone to a code.

    Args:
        code: which.
        repository: a folder inside the repository that has the commit.
        target: the clone, which must not exist.

    Returns:
        The project in the clone.

    Raises:
        BundleError: the repository does not have the commit, or the patch does not fit it.
    """
    top = git(repository, "rev-parse", "--show-toplevel").decode().strip()
    try:
        git(repository, "cat-file", "-e", f"{code.commit}^{{commit}}")
    except BundleError as error:
        hint = "fetch it (git fetch --all), or replay in a clone that has it"
        raise BundleError(f"this repository does not have the commit {code.commit}", where=top, hint=hint) from error
    git(repository, "clone", "--quiet", "--no-checkout", "--local", "--", top, str(target))
    git(target, "-c", "advice.detachedHead=false", "checkout", "--quiet", "--detach", code.commit)
    if code.patch:
        try:
            git(target, "apply", "--whitespace=nowarn", "-", given=code.patch)
        except BundleError as error:
            raise BundleError("the patch of the bundle does not fit its commit", where=error.message) from error
    return target / code.folder


def changed_by(patch: bytes) -> list[str]:
    """The files that a patch changes, as git names them."""
    found = re.findall(rb'^diff --git (?:"?a/.*"?) "?b/(.*?)"?$', patch, re.MULTILINE)
    return [name.decode(errors="replace") for name in found]


def git(folder: Path, *arguments: str, given: bytes | None = None) -> bytes:
    """Ask git, or tell it; returns what it prints.

    Raises:
        BundleError: git is not there or refuses; says why.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", folder, *arguments],
            env={**environment, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise BundleError("git cannot be started", hint="install git") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"it ended with {done.returncode}"]
        raise BundleError(f"git: {said[0]}", where=str(folder), hint="a bundle names the commit that its code is")
    return done.stdout
