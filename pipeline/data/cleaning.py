"""Cleaning: what is changed in documents, and which documents and paragraphs are dropped, with a count of each."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.data.documents import Document
from pipeline.data.markdown import strip_markdown as without_marks
from pipeline.files import sha256_bytes

LONG_PARAGRAPH = 64  # characters; shorter ones ("Exeunt", "Ay, my lord.") repeat because people say them again
EXAMPLES = 3  # a rule shows this many places
_SNIPPET = 80  # characters of an example
_LEAD = 20  # characters of an example before the first difference

_LINE_ENDS = re.compile("\r\n|[\r\u0085\u2028\u2029]")
_CONTROLS = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\ufeff]")
_PARAGRAPH_GAP = re.compile(r"(\n(?:[ \t]*\n)+)")


@dataclass
class Rule:
    """What one cleaning rule did.

    Attributes:
        enabled: whether the spec asks for it.
        documents: documents it changed or dropped.
        paragraphs: paragraphs it dropped.
        removed_characters: characters fewer than before; negative when Unicode needs more.
        examples: the first places, each with the document's id and what was there.
    """

    enabled: bool
    documents: int = 0
    paragraphs: int = 0
    removed_characters: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)

    def changed(self, before: Document, after: Document) -> None:
        """Count a document whose text the rule changed."""
        self.documents += 1
        self.removed_characters += len(before.text) - len(after.text)
        if len(self.examples) < EXAMPLES:
            start = max(0, _first_difference(before.text, after.text) - _LEAD)
            self._example(before.id, before=before.text[start:], after=after.text[start:])

    def dropped(self, document: Document) -> None:
        """Count a document that the rule dropped."""
        self.documents += 1
        self.removed_characters += len(document.text)
        if len(self.examples) < EXAMPLES:
            self._example(document.id, dropped=document.text)

    def dropped_paragraphs(self, document: Document, paragraphs: list[str]) -> None:
        """Count paragraphs that the rule dropped from a document."""
        self.documents += 1
        self.paragraphs += len(paragraphs)
        self.removed_characters += sum(map(len, paragraphs))
        for paragraph in paragraphs[: EXAMPLES - len(self.examples)]:
            self._example(document.id, dropped=paragraph)

    def report(self) -> dict[str, Any]:
        """The rule's part of reports/corpus.json."""
        return {
            "enabled": self.enabled,
            "documents": self.documents,
            "paragraphs": self.paragraphs,
            "removed_characters": self.removed_characters,
            "examples": self.examples,
        }

    def _example(self, document: str, **texts: str) -> None:
        shown = {name: _visible(text[:_SNIPPET]) for name, text in texts.items()}
        self.examples.append({"document": document, **shown})


@dataclass(frozen=True)
class Cleaned:
    """Documents after cleaning, and what each rule did, in the order they ran.

    Attributes:
        documents: those that are left.
        rules: rule name → what it did.
        filtered_characters: characters of the documents and paragraphs that were dropped.
    """

    documents: list[Document]
    rules: dict[str, Rule]
    filtered_characters: int


def clean(
    documents: Iterable[Document],
    *,
    normalize_unicode: bool = True,
    strip_control_characters: bool = True,
    strip_markdown: bool = False,
    drop_duplicate_documents: bool = True,
    drop_duplicate_paragraphs: bool = True,
    min_document_characters: int = 1,
) -> Cleaned:
    """Clean documents in order; of equal ones the first stays.

    Args:
        documents: what the source holds.
        normalize_unicode: bring texts to Unicode normalization form C.
        strip_control_characters: remove control characters except newline and tab, byte order marks and zero-width
            spaces; every kind of line end becomes a newline.
        strip_markdown: remove the marks of Markdown from documents that were not read as plain text.
        drop_duplicate_documents: drop documents whose text equals that of an earlier one.
        drop_duplicate_paragraphs: drop paragraphs of 64 characters or more that stand word for word in an earlier
            document or earlier in the same one.
        min_document_characters: drop documents with fewer characters, blank ends not counted.
    """
    rules = {
        "strip_control_characters": Rule(strip_control_characters),
        "normalize_unicode": Rule(normalize_unicode),
        "strip_markdown": Rule(strip_markdown),
        "drop_duplicate_documents": Rule(drop_duplicate_documents),
        "drop_duplicate_paragraphs": Rule(drop_duplicate_paragraphs),
        "min_document_characters": Rule(enabled=True),
    }
    changes: dict[str, Callable[[Document], str]] = {
        "strip_control_characters": lambda document: _without_controls(document.text),
        "normalize_unicode": lambda document: unicodedata.normalize("NFC", document.text),
        "strip_markdown": lambda document: document.text if document.plain else without_marks(document.text),
    }
    seen_texts: set[str] = set()
    seen_paragraphs: set[str] = set()
    kept = []
    for original in documents:
        document = original
        for name, change in changes.items():
            document = _changed(document, change, rules[name]) if rules[name].enabled else document
        if drop_duplicate_documents and _seen(document.text, seen_texts):
            rules["drop_duplicate_documents"].dropped(document)
            continue
        if drop_duplicate_paragraphs:
            document = _without_repeats(document, seen_paragraphs, rules["drop_duplicate_paragraphs"])
        if len(document.text.strip()) < min_document_characters:
            rules["min_document_characters"].dropped(document)
            continue
        kept.append(document)
    filters = ("drop_duplicate_documents", "drop_duplicate_paragraphs", "min_document_characters")
    return Cleaned(kept, rules, filtered_characters=sum(rules[name].removed_characters for name in filters))


def _changed(document: Document, change: Callable[[Document], str], rule: Rule) -> Document:
    text = change(document)
    if text == document.text:
        return document
    after = replace(document, text=text)
    rule.changed(document, after)
    return after


def _without_controls(text: str) -> str:
    return _CONTROLS.sub("", _LINE_ENDS.sub("\n", text))


def _seen(text: str, seen: set[str]) -> bool:
    digest = sha256_bytes(text.encode())  # 64 characters stand for a text of any length
    if digest in seen:
        return True
    seen.add(digest)
    return False


def _without_repeats(document: Document, seen: set[str], rule: Rule) -> Document:
    pieces = _PARAGRAPH_GAP.split(document.text)  # paragraph, gap, paragraph, gap, …, paragraph
    kept, dropped = [], []
    for paragraph, gap in zip(pieces[0::2], [*pieces[1::2], ""], strict=True):
        words = " ".join(paragraph.split())
        if len(words) >= LONG_PARAGRAPH and _seen(words, seen):
            dropped.append(paragraph)
        else:
            kept.append(paragraph + gap)
    if not dropped:
        return document
    rule.dropped_paragraphs(document, dropped)
    return replace(document, text="".join(kept))


def _first_difference(before: str, after: str) -> int:
    low, high = 0, min(len(before), len(after))
    while low < high:  # the longest common prefix, by halves
        middle = (low + high + 1) // 2
        low, high = (middle, high) if before[:middle] == after[:middle] else (low, middle - 1)
    return low


def _visible(text: str) -> str:
    """Spell out characters that a reader of the report could not see."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else f"\\u{ord(character):04x}"
        for character in text
    )
