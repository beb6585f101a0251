"""Documents made of documents: passages of a text, and pairs of which one side is made from the other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from pipeline.data.documents import Document
from pipeline.files import sha256_bytes

_GAP = re.compile(r"\n[ \t]*\n\s*")  # between paragraphs
_MARKS = re.compile(r"[^\w\s'-]")  # what stands between words; apostrophes and hyphens stand inside them
_SHORTEST_LINE = 3  # words of a line that becomes a pair: less has no case or punctuation worth restoring


def passages(documents: Sequence[Document], least: int) -> list[Document]:
    """Cut each document at the ends of paragraphs, into passages of at least so many characters.

    A passage has the label of its document. Its id ends with a hash of its text, so that it stays in its split
    whatever is added before it. What is left at the end of a document, and is shorter, belongs to its last passage.

    Args:
        documents: cleaned ones.
        least: characters of a passage.
    """
    return [
        replace(document, id=f"{document.id}#{sha256_bytes(text.encode())[:16]}", text=text)
        for document in documents
        for text in _cut(document.text, least)
    ]


def _cut(text: str, least: int) -> list[str]:
    cut: list[str] = []
    held = ""
    for paragraph in filter(str.strip, _GAP.split(text)):
        held = f"{held}\n\n{paragraph.strip()}" if held else paragraph.strip()
        if len(held) >= least:
            cut.append(held)
            held = ""
    if held and cut:
        cut[-1] = f"{cut[-1]}\n\n{held}"
    elif held:
        cut.append(held)
    return cut


def restore_case_and_punctuation(document: Document) -> Iterator[Document]:
    """A pair for each different line: in lower case without punctuation, and as it was written."""
    seen: set[str] = set()
    for line in map(str.strip, document.text.split("\n")):
        bare = " ".join(_MARKS.sub(" ", line).lower().split())
        if len(bare.split()) < _SHORTEST_LINE or line in seen:
            continue
        seen.add(line)
        yield replace(document, id=f"{document.id}#{sha256_bytes(line.encode())[:16]}", text=bare, target=line)


PAIRS: Mapping[str, Callable[[Document], Iterator[Document]]] = {
    "restore_case_and_punctuation": restore_case_and_punctuation,
}


def pairs(documents: Sequence[Document], made_by: str) -> list[Document]:
    """The pairs that a function of `PAIRS` makes of each document."""
    return [pair for document in documents for pair in PAIRS[made_by](document)]
