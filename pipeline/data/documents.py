"""What a corpus is made of: documents, how they are read from bytes, and how they lie in a split's file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.artefacts import check_artefact
from pipeline.errors import ArtifactError, CorpusError
from pipeline.files import parse_json, rebuild_hint, sha256_bytes

# Endings that a folder is searched for, and what `format: auto` makes of them; any other ending is plain text.
FORMAT_OF_ENDING = {
    ".txt": "text",
    ".text": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}

# First bytes of files that people mistake for text.
_SIGNATURES = (
    (b"%PDF", "a PDF file"),
    (b"PK\x03\x04", "a ZIP archive (also .docx, .epub and .odt)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"PAR1", "a Parquet file"),
    (b"SQLite format 3\x00", "an SQLite database"),
)
_OPTIONAL = ("label", "target")  # of a document
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Document:
    """One text and where it is from.

    Attributes:
        id: names the document and decides its split: a path, or a path and a hash of the text. Equal records of one
            file share it, so they cannot be parted.
        text: the text.
        plain: it was read as plain text, so nothing in it is a mark of Markdown.
        label: its class, where it has one.
        target: the text that belongs to it, where it is the first half of a pair.
    """

    id: str
    text: str
    plain: bool = True
    label: str | None = None
    target: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """Its text, and its target if there is one."""
        return (self.text,) if self.target is None else (self.text, self.target)


def read_documents(
    data: bytes,
    *,
    name: str,
    format: str,  # noqa: A002 - as in the spec
    text_field: str = "text",
    label_field: str | None = None,
    target_field: str | None = None,
    label_from_folder: bool = False,
) -> list[Document]:
    """The documents in the bytes of one file.

    Args:
        data: the bytes.
        name: path of the file, which names its documents.
        format: `text`, `markdown`, `jsonl`, or `auto` to go by the ending of the name.
        text_field: the field of a JSON Lines record that holds the text.
        label_field: the field of a record that holds its class; None: records have none.
        target_field: the field of a record that holds the text which belongs to the first; None: there is none.
        label_from_folder: the class of a document is the name of the folder that its file lies in.

    Raises:
        CorpusError: the bytes are not UTF-8 text, a line is not a record with what is asked for, or a file lies in no
            folder.
    """
    if format == "auto":
        format = FORMAT_OF_ENDING.get(Path(name).suffix.lower(), "text")  # noqa: A001
    text = decode(data, name=name)
    if format == "jsonl":
        documents = list(
            _records(text, name=name, text_field=text_field, label_field=label_field, target_field=target_field)
        )
    elif label_field or target_field:
        hint = "give dataset.source JSON Lines files, or take dataset.label_from_folder instead of label_field"
        raise CorpusError(f"only JSON Lines have fields, and this is {format}", where=name, hint=hint)
    else:
        documents = [Document(id=name, text=text, plain=format == "text")]
    return [replace(document, label=_folder(name)) for document in documents] if label_from_folder else documents


def _folder(name: str) -> str:
    folder = PurePosixPath(name).parent.name
    if not folder:
        hint = "put it into a folder that is named like its class, or set dataset.label_from_folder to false"
        raise CorpusError("the file lies in no folder, so it has no class", where=name, hint=hint)
    return folder


def decode(data: bytes, *, name: str) -> str:
    """UTF-8 bytes as text.

    Raises:
        CorpusError: they are binary or in another encoding; the message says which one is likely.
    """
    if data.startswith(_UTF16_MARKS):
        raise _wrong_encoding(name, offset=0, likely="UTF-16")
    for signature, kind in _SIGNATURES:
        if data.startswith(signature):
            hint = "take the text out of it first; the corpus is made of UTF-8 text, Markdown and JSON Lines files"
            raise CorpusError(f"the file is binary: it begins like {kind}", where=name, hint=hint)
    nul = data.find(b"\0")
    if nul >= 0:
        if _looks_like_utf16(data):
            raise _wrong_encoding(name, offset=nul, likely="UTF-16")
        hint = "leave it out of the source, or take the text out of it first"
        raise CorpusError(f"the file is binary: byte {nul} is zero", where=name, hint=hint)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _wrong_encoding(name, offset=error.start, likely=_likely_encoding(data)) from error


def write_split(path: Path, documents: Iterable[Document]) -> None:
    """Write documents as JSON Lines: `{"id": …, "text": …}`, with `label` and `target` where there are, UTF-8."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for document in documents:
            record = {"id": document.id, "text": document.text}
            record |= {key: value for key in _OPTIONAL if (value := getattr(document, key)) is not None}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_split(path: Path) -> Iterator[Document]:
    """Read what `write_split` wrote, one document at a time.

    Raises:
        ArtifactError: the file is missing, or a line is not such a record.
    """
    with rebuild_hint("document"):
        try:
            with path.open(encoding="utf-8", newline="\n") as file:
                for number, line in enumerate(file, start=1):
                    record = parse_json(line, f"{path}:{number}")
                    if not _is_document(record):
                        check_artefact("document", record, f"{path}:{number}")
                    yield Document(**record)
        except FileNotFoundError as error:
            raise ArtifactError("the file is missing", where=str(path)) from error
        except UnicodeDecodeError as error:
            raise ArtifactError(f"the file is not UTF-8 text: {error}", where=str(path)) from error


def _is_document(record: Any) -> bool:
    """What the schema of a document says. To ask the schema takes as long as to encode a short document."""
    return (
        isinstance(record, dict)
        and {"id", "text"} <= record.keys() <= {"id", "text", *_OPTIONAL}
        and all(isinstance(value, str) for value in record.values())
    )


def _records(
    text: str, *, name: str, text_field: str, label_field: str | None, target_field: str | None
) -> Iterator[Document]:
    lines = text.removeprefix("\ufeff").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            hint = "in a JSON Lines file each line is one JSON object"
            raise CorpusError(
                f"the line is not valid JSON: {error.msg}", where=f"{where}:{error.colno}", hint=hint
            ) from error
        except RecursionError as error:
            raise CorpusError("the line nests JSON too deeply", where=where, hint="flatten the record") from error
        if not isinstance(record, dict):
            raise CorpusError("the line is not a JSON object", where=where, hint=f'write {{"{text_field}": "…"}}')
        value = _text(record, text_field, "dataset.source.text_field", where=where)
        label = None if label_field is None else _label(record, label_field, where=where)
        target = None if target_field is None else _text(record, target_field, "dataset.target_field", where=where)
        try:
            digest = sha256_bytes(value.encode())
            (target or "").encode()
        except UnicodeEncodeError as error:
            message = "the text holds half of a surrogate pair, which is no character"
            hint = "the writer of this file cut a character in half; write it again"
            raise CorpusError(message, where=where, hint=hint) from error
        # By its text, not its line, so that inserting or sorting records moves none to another split.
        yield Document(id=f"{name}#{digest[:16]}", text=value, plain=False, label=label, target=target)


def _text(record: dict[str, Any], field: str, setting: str, *, where: str) -> str:
    value = record.get(field)
    if isinstance(value, str):
        return value
    there = ", ".join(repr(key) for key, held in record.items() if isinstance(held, str)) or "none"
    problem = f"holds {type(value).__name__}, not text" if field in record else "is missing"
    hint = f"set {setting} to the field with the text; fields that hold text here: {there}"
    raise CorpusError(f"the field {field!r} {problem}", where=where, hint=hint)


def _label(record: dict[str, Any], field: str, *, where: str) -> str:
    value = record.get(field)
    if (isinstance(value, str) and value) or type(value) is int:
        return str(value)
    problem = f"holds {json.dumps(value)}, which names no class" if field in record else "is missing"
    hint = f"a class is a text or a whole number; fields of this record: {', '.join(map(repr, record)) or 'none'}"
    raise CorpusError(f"the field {field!r} {problem}", where=where, hint=hint)


def _looks_like_utf16(data: bytes) -> bool:
    head = data[:4096]
    even, odd = head[0::2].count(0), head[1::2].count(0)
    few, many = sorted((even, odd))
    return many > len(head) * 0.2 and few < many * 0.1  # Latin letters in UTF-16 have a zero in every second byte


def _likely_encoding(data: bytes) -> str:
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return "ISO-8859-1"
    return "Windows-1252"


def _wrong_encoding(name: str, *, offset: int, likely: str) -> CorpusError:
    return CorpusError(
        f"the file is not UTF-8: byte {offset} does not fit; it is probably {likely}",
        where=name,
        hint=f"convert it: iconv -f {likely.upper()} -t UTF-8 {name} > converted.txt",
    )
