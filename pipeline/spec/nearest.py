"""Which known word an unknown one is a slip of."""

from __future__ import annotations

from collections.abc import Iterable


def closest(word: str, candidates: Iterable[str], *, taken: Iterable[str] = ()) -> str | None:
    """The candidate that `word` is most likely a slip of, or None when none is near.

    Args:
        word: what was written.
        candidates: what could have been meant; of equally near ones the first wins.
        taken: candidates that are in use already and so are less likely meant.
    """
    written, taken = _plain(word), set(taken)
    best: tuple[int, bool] | None = None
    found = None
    for candidate in candidates:
        meant = _plain(candidate)
        limit = max(1, max(len(written), len(meant)) // 3)  # one slip in three letters; more is another word
        if abs(len(written) - len(meant)) > limit or len(set(written) ^ set(meant)) > 2 * limit:
            continue  # one slip changes the length by one and the letters in use by two at most
        distance = edit_distance(written, meant)
        rank = (distance, candidate in taken)
        if distance <= limit and distance < max(len(written), len(meant)) and (best is None or rank < best):
            best, found = rank, candidate
    return found


def edit_distance(first: str, second: str) -> int:
    """Insertions, deletions, substitutions and swaps of neighbours between two words (optimal string alignment)."""
    before: list[int] = []
    above = list(range(len(second) + 1))
    for row, letter in enumerate(first, 1):
        current = [row]
        for column, other in enumerate(second, 1):
            cost = min(above[column] + 1, current[-1] + 1, above[column - 1] + (letter != other))
            if row > 1 and column > 1 and letter == second[column - 2] and first[row - 2] == other:
                cost = min(cost, before[column - 2] + 1)
            current.append(cost)
        before, above = above, current
    return above[-1]


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")
