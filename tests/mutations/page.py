"""Tables in Markdown, and their place in docs/checking-score.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.files import write_atomic
from pipeline.paths import SCHEMAS

PAGE = SCHEMAS.parent / "docs" / "checking-score.md"


def table(heads: Sequence[str], rows: Iterable[Sequence[str | int]]) -> str:
    """A table; the first column is text, the others are figures."""
    lines = [heads, ["---", *["--:"] * (len(heads) - 1)], *rows]
    return "\n".join(
        f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else cell for cell in line)} |" for line in lines
    )


def insert(name: str, text: str, page: Path = PAGE) -> None:
    """Put text between `<!-- score:NAME -->` and `<!-- /score:NAME -->`."""
    opening, closing = f"<!-- score:{name} -->", f"<!-- /score:{name} -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(opening)
    _, found, after = rest.partition(closing)
    if not found:
        raise ValueError(f"{page} must hold {opening} and {closing}")
    write_atomic(page, f"{before}{opening}\n\n{text}\n\n{closing}{after}")
