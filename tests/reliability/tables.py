"""Tables that scripts measure and write into a document, between marks that name them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in cells) + "\n"


def publish(name: str, text: str, document: Path | None) -> None:
    """Print a table, and put it into a document that has a place for it, if one is given."""
    print(text, end="")
    if document is not None:
        write_between_marks(document, name, text)


def write_between_marks(document: Path, name: str, text: str) -> None:
    """Put text in the place of what stands between `<!-- NAME -->` and `<!-- end of NAME -->`."""
    before, mark, rest = document.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->\n")
    if not end:
        raise SystemExit(f"{document} has no place for the table {name}")
    document.write_text(f"{before}{mark}\n{text}\n{end}{after}", encoding="utf-8")
