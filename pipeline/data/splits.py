"""Which documents are learned from and which are held out, decided before anything is cut into windows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from pipeline.data.documents import Document
from pipeline.errors import CorpusError

SPLITS = ("train", "validation", "test")
_SEEDS_TRIED = 10_000  # when looking for a seed to propose; more would not help with so few documents
_REACH = 0.1  # of the smaller neighbour: how far a cut may move to find the end of a paragraph
_ENDS = (re.compile(r"\n[ \t]*\n\s*"), re.compile(r"\n"), re.compile(r"\s"))  # of a paragraph, a line, a word

Splits = dict[str, list[Document]]


def split(
    documents: Sequence[Document],
    *,
    split_method: str = "document",
    validation_split: float = 0.1,
    test_split: float = 0.0,
    split_seed: int = 42,
    max_train_samples: int | None = None,
    max_val_samples: int | None = None,
) -> Splits:
    """Divide documents into train, validation and test.

    Args:
        documents: cleaned documents in the order of the source.
        split_method: `document` hashes each id with the seed, so that a document stays in its split whatever is
            added to the corpus; `contiguous` cuts the text in order, at the ends of paragraphs where there are any.
        validation_split: share for validation, as a fraction.
        test_split: share for test, as a fraction.
        split_seed: seed of the hash.
        max_train_samples: most documents of train: those with the smallest hashes (`document`, a fair sample) or
            the first (`contiguous`). None keeps all.
        max_val_samples: the same for validation.

    Returns:
        Split name → documents in the order of the source; a share of 0 gives an empty list.

    Raises:
        CorpusError: a split with a share gets no document, or nothing is left to train on.
    """
    if validation_split + test_split >= 1:
        message = f"validation_split {validation_split} and test_split {test_split} leave nothing to train on"
        raise CorpusError(message, hint="lower dataset.validation_split or dataset.test_split")
    shares = {
        "train": 1 - validation_split - test_split,
        "validation": validation_split,
        "test": test_split,
    }
    splits = METHODS[split_method](documents, shares, split_seed)
    for name, share in shares.items():
        if share > 0 and not splits[name]:
            raise _empty_split(name, documents, shares, split_method=split_method)
    sample = _smallest_hashes if split_method == "document" else _first
    limits = {"train": max_train_samples, "validation": max_val_samples, "test": None}
    return {name: sample(splits[name], limit or len(splits[name]), split_seed) for name, limit in limits.items()}


def place_of(document_id: str, seed: int) -> float:
    """Where a document stands in [0, 1): a hash of its id and the seed, and of nothing else."""
    digest = hashlib.sha256(f"{seed}\n{document_id}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56  # 53 bits are what a float holds; 56 round to it


def by_document(documents: Sequence[Document], shares: dict[str, float], seed: int) -> Splits:
    """Send each document to the split in whose part of [0, 1) it stands."""
    splits: Splits = {name: [] for name in SPLITS}
    for document in documents:
        splits[split_of(document.id, shares, seed)].append(document)
    return splits


def contiguous(documents: Sequence[Document], shares: dict[str, float], _seed: int) -> Splits:
    """Cut the text in order: train first, then validation, then test; a document in two splits becomes two."""
    splits: Splits = {name: [] for name in SPLITS}
    total = sum(len(document.text) for document in documents)
    names = [name for name in SPLITS if shares[name] > 0]
    reach = int(min(shares[name] for name in names) * total * _REACH)
    targets = [round(total * sum(shares[name] for name in names[: index + 1])) for index in range(len(names) - 1)]
    start = 0  # characters before this document
    for document in documents:
        size = len(document.text)
        cuts = [_cut(document.text, target - start, reach) for target in targets if start < target < start + size]
        edges = [0, *cuts, size]
        parts = [document.text[low:high] for low, high in pairwise(edges)]
        first = sum(target <= start for target in targets)  # splits that ended before this document
        filled = [(names[first + index], part) for index, part in enumerate(parts) if part.strip()]
        for number, (name, part) in enumerate(filled, start=1):
            part_id = document.id if len(filled) == 1 else f"{document.id}#{number}"
            splits[name].append(replace(document, id=part_id, text=part))
        start += size
    return splits


METHODS: dict[str, Callable[[Sequence[Document], dict[str, float], int], Splits]] = {
    "document": by_document,
    "contiguous": contiguous,
}


def split_of(document_id: str, shares: dict[str, float], seed: int) -> str:
    """The split in whose part of [0, 1) a document stands."""
    place = place_of(document_id, seed)
    if place < shares["test"]:
        return "test"
    return "validation" if place < shares["test"] + shares["validation"] else "train"


def _cut(text: str, target: int, reach: int) -> int:
    """The place near `target` where a paragraph ends, or else a line, or else a word; `target` itself if none does."""
    low, high = max(0, target - reach), min(len(text), target + reach)
    for end in _ENDS:
        places = [match.end() for match in end.finditer(text, low, high)]
        places += [edge for edge in (0, len(text)) if low <= edge <= high]  # a document's ends are ends of paragraphs
        if places:
            return min(places, key=lambda place: (abs(place - target), place))
    return target


def _first(documents: list[Document], limit: int, _seed: int) -> list[Document]:
    return documents[:limit]


def _smallest_hashes(documents: list[Document], limit: int, seed: int) -> list[Document]:
    """A fair sample in the order of the source; a smaller limit takes a part of what a larger one takes."""
    order = sorted(range(len(documents)), key=lambda index: place_of(documents[index].id, seed))
    return [documents[index] for index in sorted(order[:limit])]


def _empty_split(
    name: str, documents: Sequence[Document], shares: dict[str, float], *, split_method: str
) -> CorpusError:
    count = len(documents)
    message = f"the {name} split gets no document: the corpus has {count}, and {name} is to hold {shares[name]:.0%}"
    if split_method == "contiguous":
        return CorpusError(message, hint="use more text, or set the share to 0")
    wanted = {split for split, share in shares.items() if share > 0}
    for seed in range(_SEEDS_TRIED if count >= len(wanted) else 0):
        if wanted <= {split_of(document.id, shares, seed) for document in documents}:
            hint = f"set dataset.split_seed: {seed}, which gives every split a document, or split_method: contiguous"
            return CorpusError(message, hint=hint)
    return CorpusError(message, hint="set dataset.split_method: contiguous, which divides long documents too")
