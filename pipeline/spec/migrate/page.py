"""docs/earlier-keys.md: what becomes of every key of every earlier system, from the tables that do it."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.spec.migrate.dialects import DIALECTS
from pipeline.spec.migrate.table import UNSET, Carried, Dialect, Dropped, Row
from pipeline.spec.words import spelled


def keys_page() -> str:
    """The page as its file holds it."""
    lines = [
        "# Keys of earlier systems",
        "",
        "Made by `python -m pipeline.spec.pages` from the tables of `foundry migrate`;",
        "[migrating.md](migrating.md) explains them.",
        "",
        "A key that is *refused* stops the migration unless its value asks for nothing, or `--drop KEY` gives it up.",
    ]
    for dialect in DIALECTS:
        lines += ["", *_section(dialect)]
    return "\n".join(lines) + "\n"


def _section(dialect: Dialect) -> Iterator[str]:
    yield f"## {dialect.title[0].upper()}{dialect.title[1:]}: `{dialect.name}`"
    yield ""
    yield f"Becomes a document of kind `{dialect.kind}`."
    yield ""
    yield "| key | today | default then | remarks |"
    yield "|---|---|---|---|"
    for row in dialect.rows:
        yield _line(row)
    if dialect.derived or dialect.fixed:
        yield ""
        yield "What it did without a key for it is written out, where today's default differs:"
        yield ""
        yield "| setting | value | why |"
        yield "|---|---|---|"
        for derived in dialect.derived:
            yield f"| `{derived.new}` | follows from `{derived.reads}` | {derived.reason} |"
        for fixed in dialect.fixed:
            yield f"| `{fixed.new}` | `{spelled(fixed.value)}` | {fixed.reason} |"


def _line(row: Row) -> str:
    if isinstance(row, Carried):
        default = "" if row.default is UNSET else f"`{spelled(row.default)}`"
        refused = f"refused: {', '.join(row.refuses)}" if row.refuses else ""
        return f"| `{row.old}` | `{row.new}` | {default} | {'; '.join(filter(None, (row.note, refused)))} |"
    return f"| `{row.old}` | {'dropped' if isinstance(row, Dropped) else 'refused'} | | {row.reason} |"
