"""Files that are whole or absent: atomic writes, artefacts checked by their schemas, output folders with a manifest."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from pipeline import __version__
from pipeline.artefacts import ARTEFACTS, MalformedError, artefact_schema, check_artefact
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
    write_atomic(path, json_text(value))


def read_json(path: Path) -> Any:
    """Read a JSON file that the toolkit wrote.

    Raises:
        ArtifactError: it is missing, or is not JSON.
    """
    return parse_json(read_text(path), str(path))


def parse_json(text: str, where: str) -> Any:
    """Parse JSON that the toolkit wrote: without NaN and Infinity, which JSON has no word for.

    Raises:
        ArtifactError: it is something else.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise ArtifactError(f"not valid JSON: {error}", where=where) from error
    except RecursionError as error:
        raise ArtifactError("not valid JSON: it nests too deeply", where=where) from error


def write_artefact(path: Path, kind: str, value: Any) -> None:
    """Write a file of ours that is what its schema says.

    Args:
        path: the file.
        kind: a row of `artefacts.ARTEFACTS`.
        value: what goes into it; for kinds that hold rows, the list of them.

    Raises:
        AssertionError: the schema does not allow the value: a defect of the toolkit. Nothing is written.
    """
    form = ARTEFACTS[kind].form
    try:
        for number, row in enumerate([value] if form == "json" else value, start=1):
            check_artefact(kind, row, path if form == "json" else f"{path}: row {number}")
    except MalformedError as error:
        raise AssertionError(f"what was about to be written is no {kind}: {error}") from error
    write_atomic(path, _TEXT_OF[form](kind, value))


def read_artefact(path: Path, kind: str, *, rebuild: str = "") -> Any:
    """Read a file of ours, which must be what its schema says.

    Args:
        path: the file.
        kind: a row of `artefacts.ARTEFACTS`.
        rebuild: the command that makes the file again, where it is not the one in the table.

    Returns:
        What is in it; for kinds that hold rows, the list of them.

    Raises:
        ArtifactError: it is missing, damaged, foreign or of another version; the hint says how to build it again.
    """
    with rebuild_hint(kind, rebuild):
        text = read_text(path)
    return parse_artefact(text, kind, str(path), rebuild=rebuild)


def parse_artefact(text: str, kind: str, where: str, *, rebuild: str = "") -> Any:
    """The same for text that has been read; `where` is the name of the file in messages."""
    with rebuild_hint(kind, rebuild):
        placed = list(_ROWS_OF[ARTEFACTS[kind].form](text, kind, where))
    for place, row in placed:
        check_artefact(kind, row, place, rebuild=rebuild)
    rows = [row for _, row in placed]
    return rows[0] if ARTEFACTS[kind].form == "json" else rows


@contextmanager
def rebuild_hint(kind: str, rebuild: str = "") -> Iterator[None]:
    """Let every ArtifactError of the block say how to build a file again; arguments as for `read_artefact`."""
    try:
        yield
    except ArtifactError as error:
        hint = f"build it again with: {rebuild or ARTEFACTS[kind].rebuild}"
        raise ArtifactError(error.message, where=error.where, hint=hint) from error


def read_text(path: Path) -> str:
    """Read a file of ours that holds text.

    Raises:
        ArtifactError: it is missing, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ArtifactError("the file is missing", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise ArtifactError(f"the file is not UTF-8 text: {error}", where=str(path)) from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def json_text(value: Any) -> str:
    """How `write_json` spells a value."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _jsonl_text(_kind: str, rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def _csv_text(kind: str, rows: Any) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(artefact_schema(kind)["properties"]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


# Where each value of a file stands, for messages, and the value. A row's place is its line.
_Rows = Iterator[tuple[str, Any]]


def _json_rows(text: str, _kind: str, where: str) -> _Rows:
    yield where, parse_json(text, where)


def _jsonl_rows(text: str, _kind: str, where: str) -> _Rows:
    lines = text.split("\n")  # not splitlines(), which also cuts at characters that JSON holds as they are
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, start=1):
        yield f"{where}:{number}", parse_json(line, f"{where}:{number}")


def _csv_rows(text: str, kind: str, where: str) -> _Rows:
    schema = artefact_schema(kind)
    columns = list(schema["properties"])
    head, *rows = csv.reader(io.StringIO(text)) if text else [[]]
    if head != [name for name in columns if name in head or name in schema["required"]]:  # some are new
        raise ArtifactError(f"the columns are not {', '.join(columns)}", where=f"{where}:1")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(head):
            raise ArtifactError(f"the row has {len(row)} cells, not {len(head)}", where=f"{where}:{number}")
        yield f"{where}:{number}", {name: _cell(cell) for name, cell in zip(head, row, strict=True)}


def _cell(text: str) -> Any:
    """What a cell of a table holds: nothing, a number, or text."""
    if text == "":
        return None
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    return text


_TEXT_OF: Mapping[str, Callable[[str, Any], str]] = {
    "json": lambda _kind, value: json_text(value),
    "jsonl": _jsonl_text,
    "csv": _csv_text,
}
_ROWS_OF: Mapping[str, Callable[[str, str, str], _Rows]] = {
    "json": _json_rows,
    "jsonl": _jsonl_rows,
    "csv": _csv_rows,
}


@contextmanager
def output_folder(
    target: Path,
    *,
    stage: str,
    sections: Mapping[str, Any],
    inputs: Mapping[str, str],
    spec_hash: str | None = None,
) -> Iterator[Path]:
    """Fill a folder beside `target`, give it a manifest, then put it in `target`'s place.

    A failure inside the block leaves `target` as it was and removes the unfinished folder.

    Args:
        target: the folder that appears when all is done.
        stage: which stage makes it.
        sections: the resolved spec sections that shaped it.
        inputs: name → SHA-256 of what it was made from (manifests of earlier stages, downloads).
        spec_hash: the hash of the lock that it follows from (`pipeline.spec.lock`); None where no spec is at work.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.tmp-"))
    try:
        os.chmod(unfinished, 0o755)
        yield unfinished
        write_manifest(unfinished, stage=stage, sections=sections, inputs=inputs, spec_hash=spec_hash)
        if target.exists():
            shutil.rmtree(target)
        os.replace(unfinished, target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    sync_folder(target.parent)


def write_manifest(
    folder: Path,
    *,
    stage: str,
    sections: Mapping[str, Any],
    inputs: Mapping[str, str],
    spec_hash: str | None = None,
) -> None:
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
        **({} if spec_hash is None else {"spec_hash": spec_hash}),
        "inputs": dict(inputs),
        "sections": dict(sections),
        "files": files,
    }
    write_artefact(folder / MANIFEST, "manifest", manifest)


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
    manifest: dict[str, Any] = read_artefact(folder / MANIFEST, "manifest", rebuild=rebuild)
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
    return manifest


def manifest_hash(folder: Path) -> str:
    """The identity of an output folder: the SHA-256 of its manifest."""
    return sha256_file(folder / MANIFEST)
