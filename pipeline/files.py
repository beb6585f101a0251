"""Files that are whole or absent: atomic writes, hashes, output folders with a manifest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.errors import ArtifactError

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
_CHUNK = 1 << 20  # bytes read at a time: large enough that the loop costs nothing


def sha256_bytes(data: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal, read in constant memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """One spelling for equal values: sorted keys, no spaces, finite numbers only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sync_folder(folder: Path) -> None:
    """Make the names inside a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the bytes of a file survive a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = data.encode("utf-8") if isinstance(data, str) else data
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp makes 0600, which would follow the file into git and DVC
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people and for git: indented, in the order given, ending in a newline.

    Raises:
        ValueError: the value holds NaN or Infinity, which JSON has no word for.
    """
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that the toolkit wrote.

    Raises:
        ArtifactError: it is missing, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError("the file is missing", where=str(path)) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"the file is not valid JSON: {error}", where=str(path)) from error


@contextmanager
def output_folder(
    target: Path, *, stage: str, sections: Mapping[str, Any], inputs: Mapping[str, str]
) -> Iterator[Path]:
    """Fill a folder beside `target`, give it a manifest, then put it in `target`'s place.

    A failure inside the block leaves `target` as it was and removes the unfinished folder.

    Args:
        target: the folder that appears when all is done.
        stage: which stage makes it.
        sections: the resolved spec sections that shaped it.
        inputs: name → SHA-256 of what it was made from (manifests of earlier stages, downloads).
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.tmp-"))
    try:
        os.chmod(unfinished, 0o755)
        yield unfinished
        write_manifest(unfinished, stage=stage, sections=sections, inputs=inputs)
        if target.exists():
            shutil.rmtree(target)
        os.replace(unfinished, target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    sync_folder(target.parent)


def write_manifest(folder: Path, *, stage: str, sections: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    """Describe every file of a folder in its `manifest.json`, after making each one durable."""
    files = {}
    # A folder inside may have a manifest of its own (a model inside an export): to this one it is a file as any other.
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST):
        sync_file(path)
        files[path.relative_to(folder).as_posix()] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    manifest = {
        "format_version": MANIFEST_FORMAT,
        "stage": stage,
        "toolkit_version": __version__,
        "inputs": dict(inputs),
        "sections": dict(sections),
        "files": files,
    }
    write_json(folder / MANIFEST, manifest)


def verify_manifest(folder: Path, *, rebuild: str) -> dict[str, Any]:
    """Check every file of a folder against its manifest and return the manifest.

    Args:
        folder: an output folder of a stage, or a checkpoint.
        rebuild: the command that makes the folder again, for the hint.

    Raises:
        ArtifactError: the folder, its manifest or a file is missing, a file has other bytes than
            recorded, or there is a file that the manifest does not know.
    """
    hint = f"build it again with: {rebuild}"
    if not folder.is_dir():
        raise ArtifactError("the folder does not exist", where=str(folder), hint=hint)
    try:
        manifest = read_json(folder / MANIFEST)
    except ArtifactError as error:
        raise ArtifactError(error.message, where=error.where, hint=hint) from error
    if manifest.get("format_version") != MANIFEST_FORMAT:
        found = manifest.get("format_version")
        raise ArtifactError(
            f"manifest format {found!r} is not the format {MANIFEST_FORMAT} that this version reads",
            where=str(folder / MANIFEST),
            hint=hint,
        )
    for name, recorded in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError("the file is missing, its manifest lists it", where=str(path), hint=hint)
        if path.stat().st_size != recorded["bytes"] or sha256_file(path) != recorded["sha256"]:
            raise ArtifactError(
                "the file is not the one its manifest describes (SHA-256 differs): it was changed or damaged",
                where=str(path),
                hint=hint,
            )
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in sorted(present - manifest["files"].keys() - {MANIFEST}):
        raise ArtifactError("the manifest does not list this file", where=str(folder / name), hint=hint)
    return dict(manifest)


def manifest_hash(folder: Path) -> str:
    """The identity of an output folder: the SHA-256 of its manifest."""
    return sha256_file(folder / MANIFEST)
