"""The folders of the registry: copied in whole, moved to their place at once, hashed again before anyone gets them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ArtifactError
from pipeline.files import MANIFEST, manifest_hash, sync_file, sync_folder, verify_manifest
from pipeline.records.registered import RegistryError


def as_registered(folder: Path, manifest_sha256: str) -> Path:
    """A folder of the registry, whose manifest is the one that was registered and whose files are those it lists.

    Raises:
        ArtifactError: they are not.
    """
    try:
        _check(folder, manifest_sha256)
    except ArtifactError as error:
        hint = "put the folder back from a copy, or promote another version; `foundry models verify` checks them all"
        message = f"what was registered has changed: {error.message}"
        raise ArtifactError(message, where=error.where, hint=hint) from error
    return folder


def _check(folder: Path, manifest_sha256: str) -> None:
    if (folder / MANIFEST).is_file() and manifest_hash(folder) != manifest_sha256:
        raise ArtifactError("the manifest is not the one that was registered", where=str(folder / MANIFEST))
    verify_manifest(folder, rebuild="foundry models register")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what the operating system refuses into an error that a user can act on.

    Args:
        folder: that is copied or written, for the message.
    """
    try:
        yield
    except OSError as error:
        hint = "free some space, see that the folders may be read and written, and run the same command again"
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error  # the first of (from, to, why)
        raise RegistryError(f"the operating system refused: {reason}", where=str(folder), hint=hint) from error


@contextmanager
def incoming(registry: Path) -> Iterator[Path]:
    """A folder inside that of the registry, which is gone after the block, but for what was moved out of it."""
    with writing(registry):
        folder = Path(tempfile.mkdtemp(dir=registry, prefix=".incoming-"))
        os.chmod(folder, 0o755)  # mkdtemp makes 0700, and others may use the registry too
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy(source: Path, target: Path, manifest_sha256: str) -> None:
    """Copy a folder, and make the copy survive a power cut.

    Args:
        source: the folder.
        target: its copy.
        manifest_sha256: of the manifest that was found to be right.

    Raises:
        RegistryError: a file cannot be read, the disk is full, or the folder changed meanwhile.
    """
    with writing(source):
        shutil.copytree(source, target)
        for path in target.rglob("*"):
            if path.is_file():
                sync_file(path)
            else:
                sync_folder(path)
    try:
        _check(target, manifest_sha256)
    except ArtifactError as error:
        hint = "wait for the run that writes it, and run the same command again"
        raise RegistryError("the folder changed while it was copied", where=str(source), hint=hint) from error


def remove(folder: Path) -> None:
    """Remove a folder that no row knows any more.

    Raises:
        RegistryError: not all of it can be removed.
    """
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        message = f"the model is deleted, but not all of its files: {error}"
        raise RegistryError(message, where=str(folder), hint="remove the folder") from error


def move_in(copied: Path, target: Path) -> None:
    """Put a copy in its place, as the last act of the transaction that makes its row."""
    with writing(target):
        if target.exists():  # of a process that ended between this function and its commit: no row knows it
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(copied, target)
        sync_folder(target.parent)
