"""A table of picture files and their labels: CSV, or JSON Lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import CorpusError

FILE, LABELS = "file_name", "labels"  # as in the metadata files of Hugging Face's `imagefolder`

Rows = Iterator[tuple[int, Mapping[str, Any]]]  # line of the file, columns of the row


def read_table(path: Path, *, where: str) -> dict[str, tuple[str, ...]]:
    """The pictures that a table names, each with its labels.

    A row has `file_name`, relative to the folder of the table, and `labels`; other columns are not read. In CSV, labels
    are separated by spaces; in JSON Lines they are a list of texts, so that a label can hold spaces. A picture may have
    no label.

    Args:
        path: the table; its ending says what it is.
        where: what messages call it.

    Returns:
        File name → labels, without repetition, in the order of the table.

    Raises:
        CorpusError: it cannot be read, has another ending, lacks a column, names a file twice, or has a label that is
            no text.
    """
    if path.suffix.lower() not in _FORMS:
        hint = "give a .csv or a .jsonl file with the columns file_name and labels"
        raise CorpusError("a table of pictures ends in .csv or .jsonl", where=where, hint=hint)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        hint = "correct dataset.source.path; it is relative to the project"
        raise CorpusError(f"the table cannot be read: {error.strerror}", where=where, hint=hint) from error
    except UnicodeDecodeError as error:
        raise CorpusError("the table is not UTF-8", where=where, hint="save it as UTF-8") from error
    found: dict[str, tuple[str, ...]] = {}
    for line, row in _FORMS[path.suffix.lower()](text, where):
        place = f"{where}:{line}"
        name, labels = row.get(FILE), row.get(LABELS)
        if not isinstance(name, str) or not name:
            raise CorpusError(f"the row has no {FILE}", where=place, hint=f"each row needs {FILE} and {LABELS}")
        if not isinstance(labels, list) or not all(isinstance(label, str) and label.strip() for label in labels):
            hint = f"write {LABELS} as a list of texts, [] for none" if path.suffix.lower() == ".jsonl" else ""
            raise CorpusError(f"{LABELS} of {name} is no list of labels", where=place, hint=hint)
        if name in found:
            raise CorpusError(f"{name} is named twice", where=place, hint="put all labels of a picture into one row")
        found[name] = tuple(dict.fromkeys(labels))
    return found


def _csv(text: str, where: str) -> Rows:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = reader.fieldnames or []
        if missing := [name for name in (FILE, LABELS) if name not in columns]:
            hint = f"the first line names the columns: {FILE},{LABELS}"
            raise CorpusError(f"the table has no column {missing[0]}", where=where, hint=hint)
        for row in reader:
            labels = row[LABELS]
            yield reader.line_num, {**row, LABELS: None if labels is None else labels.split()}
    except csv.Error as error:
        raise CorpusError(f"the line is not CSV: {error}", where=f"{where}:{reader.line_num + 1}") from error


def _json_lines(text: str, where: str) -> Rows:
    for number, line in enumerate(text.split("\n"), 1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError as error:
            raise CorpusError(f"the line is not JSON: {error}", where=f"{where}:{number}") from error
        if row is None:
            continue
        if not isinstance(row, dict):
            raise CorpusError("the line is no JSON object", where=f"{where}:{number}")
        yield number, row


_FORMS: Mapping[str, Callable[[str, str], Rows]] = {".csv": _csv, ".jsonl": _json_lines}
