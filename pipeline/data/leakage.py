"""The leakage audit: which text of a held-out split also stands in the training split.

Exact, not sampled. Every window of 64 characters gets a polynomial hash modulo 2^64; windows whose hashes meet are
compared character by character, so a collision can neither add a passage nor hide one. White space is normalised
first: a different line break does not make a text new.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pipeline.data.documents import Document

PASSAGE = 64  # characters: longer than any common phrase, shorter than any passage worth remembering
EXAMPLES = 5
_SNIPPET = 160  # characters of an example
_BASE = 0x9E3779B97F4A7C15  # odd, with bits everywhere (2^64 / golden ratio), so that the high bits of hashes mix
_PIECE = 1 << 20  # characters of training text looked at together: some 40 MB of hashes
_SIEVE = 8  # places for a held-out window: seven of eight training windows are then told apart without a search
_COMPARED = 1 << 14  # windows compared together: 4 MB on each side
# Between documents. Text holds no surrogates, and these two differ, so no window across documents is ever shared.
_TRAIN_GAP, _HELD_OUT_GAP = "\ud800", "\udfff"

Codes = np.ndarray[tuple[int], np.dtype[np.uint32]]
Hashes = np.ndarray[tuple[int], np.dtype[np.uint64]]
Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]
Indices = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Leakage:
    """What a held-out split shares with the training split.

    Attributes:
        documents: held-out documents whose whole text is a training document.
        passages: stretches of held-out text, as long as they go, whose every window of 64 characters stands in train.
        characters: characters in those passages, each counted once.
        fraction: those characters as a fraction of the held-out characters (white space normalised).
        examples: the first passages, with the held-out document, a training document and the text.
    """

    documents: int
    passages: int
    characters: int
    fraction: float
    examples: list[dict[str, str]]

    def report(self) -> dict[str, Any]:
        """The split's part of reports/corpus.json."""
        return {
            "documents": self.documents,
            "passages": self.passages,
            "characters": self.characters,
            "fraction": round(self.fraction, 6),
            "examples": self.examples,
        }


def audit(train: Sequence[Document], held_out: Sequence[Document]) -> Leakage:
    """Find every document and every passage of 64 characters or more that two splits share.

    Takes time in proportion to the text, and memory of about 50 bytes for a held-out character.
    """
    texts = [_normalised(document.text) for document in held_out]
    wanted = set(texts)
    whole = {text for document in train if (text := _normalised(document.text)) in wanted}
    starts = np.cumsum([0, *(len(text) + 1 for text in texts)])
    joined = _HELD_OUT_GAP.join(texts)
    windows = _Windows(joined)
    shared, witness = windows.found_in(_pieces(train))
    passages = [(int(low), int(high) + PASSAGE - 1) for low, high in _runs(shared)]
    # Two passages may overlap (each begins and ends where it stops standing in train); a character counts once.
    characters = int(np.count_nonzero(_covered(passages, len(joined))))
    examples = [
        {
            "held_out": held_out[int(np.searchsorted(starts, low, side="right")) - 1].id,
            "train": train[witness[low]].id,
            "text": joined[low : min(high, low + _SNIPPET)],
        }
        for low, high in passages[:EXAMPLES]
    ]
    return Leakage(
        documents=sum(text in whole for text in texts),
        passages=len(passages),
        characters=characters,
        fraction=characters / max(1, sum(map(len, texts))),
        examples=examples,
    )


class _Windows:
    """Every window of a text, to be looked up in other text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._codes = _codes(text)
        # One key for equal hashes: key_of: window → key, first: key → its first window.
        self._hashes, self._first, self._key_of = np.unique(
            _hashes(self._codes), return_index=True, return_inverse=True
        )
        self._bits = (_SIEVE * len(self._hashes)).bit_length()
        self._sieve = np.zeros(1 << self._bits, bool)
        self._sieve[_high_bits(self._hashes, self._bits)] = True

    def found_in(self, pieces: Iterator[tuple[str, Indices, Indices]]) -> tuple[Mask, Indices]:
        """Which windows stand in the pieces, and for each the number of a document that has it."""
        keys = len(self._hashes)
        hit, equal = np.zeros(keys, bool), np.zeros(keys, bool)
        witness = np.zeros(keys, np.int64)
        others: dict[str, int] = {}  # text found under a key whose first window is another text: a collision
        for text, starts, numbers in pieces if keys else ():
            codes = _codes(text)
            hashes = _hashes(codes)
            places = np.flatnonzero(self._sieve[_high_bits(hashes, self._bits)])
            found = np.minimum(np.searchsorted(self._hashes, hashes[places]), keys - 1)
            real = self._hashes[found] == hashes[places]
            places, found = places[real], found[real]
            same = _same(codes, places, self._codes, self._first[found])
            documents = numbers[np.searchsorted(starts, places, side="right") - 1]
            hit[found] = True
            fresh = same & ~equal[found]
            witness[found[fresh]] = documents[fresh]
            equal[found[same]] = True
            for place, document in zip(places[~same], documents[~same], strict=True):
                others.setdefault(text[place : place + PASSAGE], int(document))
        shared = equal[self._key_of]
        source = witness[self._key_of]
        self._settle_collisions(hit, others, shared, source)
        return shared, source

    def _settle_collisions(self, hit: Mask, others: dict[str, int], shared: Mask, source: Indices) -> None:
        """Decide the windows that differ from the first window of their key, by their text."""
        touched = np.flatnonzero(hit[self._key_of])
        odd = touched[~_same(self._codes, touched, self._codes, self._first[self._key_of[touched]])]
        for window in odd:
            document = others.get(self._text[window : window + PASSAGE])
            shared[window] = document is not None
            source[window] = document or 0


def _normalised(text: str) -> str:
    return " ".join(text.split())


def _pieces(documents: Sequence[Document]) -> Iterator[tuple[str, Indices, Indices]]:
    """Training text in pieces of bounded size, with where each document starts in the piece, and its number."""
    parts: list[str] = []
    starts: list[int] = []
    numbers: list[int] = []
    size = 0
    for number, document in enumerate(documents):
        text = _normalised(document.text)
        for low in range(0, max(1, len(text) - PASSAGE + 1), _PIECE):
            part = text[low : low + _PIECE + PASSAGE - 1]  # parts overlap, so that no window is lost between them
            starts.append(size)
            numbers.append(number)
            parts.append(part)
            size += len(part) + 1
            if size >= _PIECE:
                yield _TRAIN_GAP.join(parts), np.array(starts), np.array(numbers)
                parts, starts, numbers, size = [], [], [], 0
    if parts:
        yield _TRAIN_GAP.join(parts), np.array(starts), np.array(numbers)


def _codes(text: str) -> Codes:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _hashes(codes: Codes) -> Hashes:
    """The hash of the window at each place: Σ code · base^(63 - offset), built by doubling its width six times."""
    if len(codes) < PASSAGE:
        return np.zeros(0, np.uint64)
    hashes, width, power = codes.astype(np.uint64), 1, _BASE
    while width < PASSAGE:
        hashes = hashes[:-width] * np.uint64(power) + hashes[width:]
        width, power = 2 * width, power * power % 2**64
    return hashes


def _high_bits(hashes: Hashes, bits: int) -> Indices:
    return (hashes >> np.uint64(64 - bits)).astype(np.int64)


def _same(left: Codes, left_at: Indices, right: Codes, right_at: Indices) -> Mask:
    """Whether the windows at two lists of places are equal, character by character."""
    equal = np.zeros(len(left_at), bool)
    if len(left_at) == 0:
        return equal
    left_windows, right_windows = sliding_window_view(left, PASSAGE), sliding_window_view(right, PASSAGE)
    for low in range(0, len(left_at), _COMPARED):
        high = low + _COMPARED
        equal[low:high] = (left_windows[left_at[low:high]] == right_windows[right_at[low:high]]).all(axis=1)
    return equal


def _covered(passages: list[tuple[int, int]], size: int) -> Mask:
    depth = np.zeros(size + 1, np.int32)
    for low, high in passages:
        depth[low] += 1
        depth[high] -= 1
    return np.cumsum(depth) > 0


def _runs(mask: Mask) -> list[tuple[int, int]]:
    """Where runs of True begin and end."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return list(zip(edges[0::2], edges[1::2], strict=True))
