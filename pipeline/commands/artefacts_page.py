"""docs/artefacts.md: every file that the toolkit writes, made from the table of artefacts and their schemas.

Write the page again after changing either: `python -m pipeline.commands.artefacts_page`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.artefacts import ARTEFACTS, Artefact, Schema, artefact_schema
from pipeline.files import write_atomic
from pipeline.paths import SCHEMAS
from pipeline.spec.words import expected

PAGE = SCHEMAS.parent / "docs" / "artefacts.md"
_HEAD = """\
# What the toolkit writes

Made from the schemas in `schemas/v1/artefact/` by `python -m pipeline.commands.artefacts_page`. Each of these files is
checked by its schema when it is written and when it is read, and `foundry check` checks those that it is given. A file
of a later version is refused with the version that reads it; a damaged one with the command that builds it again.

Keys marked ? may be missing. `[]` is each item of a list, `*` each key of a mapping."""
_FORMS = {
    "json": "JSON",
    "jsonl": "JSON Lines: the keys are those of a line",
    "csv": "CSV with a header: the keys are the columns",
}


def artefacts_page() -> str:
    """The whole page."""
    parts = [_HEAD, *(_section(kind, row) for kind, row in ARTEFACTS.items())]
    return "\n\n".join(parts) + "\n"


def write_page() -> Path:
    """Write it; returns its path."""
    write_atomic(PAGE, artefacts_page())
    return PAGE


def _section(kind: str, row: Artefact) -> str:
    schema = artefact_schema(kind)
    names = ", ".join(f"`{name}`" for name in row.names)
    lines = [f"## {kind}", "", schema["description"], ""]
    lines += [f"{_FORMS[row.form]}. Known by the name {names}. Built again with: `{row.rebuild}`."]
    if row.schema:
        return "\n".join([*lines, "", "Its keys are those of a spec: [spec-reference.md](spec-reference.md)."])
    cells = [("Key", "Holds", "Meaning"), ("---", "---", "---"), *_rows(schema, schema, "")]
    return "\n".join([*lines, "", *(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in cells)])


def _rows(schema: Schema, root: Schema, prefix: str) -> Iterator[tuple[str, str, str]]:
    """A row for every key below a mapping."""
    required = schema.get("required", ())
    for name, given in schema.get("properties", {}).items():
        child = _resolved(given, root)
        path = f"{prefix}{name}"
        mark = "" if name in required else " ?"
        yield f"`{path}`{mark}", _holds(child), child.get("description", "")
        yield from _below(child, root, path)


def _below(schema: Schema, root: Schema, path: str) -> Iterator[tuple[str, str, str]]:
    yield from _rows(schema, root, f"{path}.")
    for key, suffix in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(inner := schema.get(key), dict):
            yield from _below(_resolved(inner, root), root, f"{path}{suffix}")


def _resolved(schema: Schema, root: Schema) -> Schema:
    """A schema with what its `$ref` names inside the same file; keywords beside it win."""
    if "$ref" not in schema:
        return schema
    there = root["$defs"][schema["$ref"].rpartition("/")[2]]
    return {**_resolved(there, root), **{key: value for key, value in schema.items() if key != "$ref"}}


def _holds(schema: Schema) -> str:
    if schema.get("type") == "object":
        return "a mapping"
    if "pattern" in schema:
        return "text of a fixed form"
    return "a list" if schema.get("type") == "array" else expected(schema)


if __name__ == "__main__":
    print(write_page())
