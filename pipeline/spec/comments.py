"""The comments of a YAML text, each with the key or item that it belongs to."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.spec.document import Keys
from pipeline.spec.layout import Piece, after_line, layout_of, line_end, line_start

_COMMENT_OR_EMPTY_LINE = re.compile(r"(?:(?<=\s)|^)#[^\r\n]*|^[ \t]*$", re.MULTILINE)
_BLOCK_OF_TEXT = re.compile(r"(?:[&!]\S*\s+)*[|>][-+0-9]*")


@dataclass(slots=True)
class Comments:
    """Comments by path, as they are written from their `#` on; an empty text stands for an empty line.

    Attributes:
        head: on top of the text, before anything else.
        above: on lines of their own, above a key or an item.
        beside: behind a key or its value.
        below: under the last entry of a collection; under () those at the end of the text.
    """

    head: list[str] = field(default_factory=list)
    above: dict[Keys, list[str]] = field(default_factory=lambda: defaultdict(list))
    beside: dict[Keys, str] = field(default_factory=dict)
    below: dict[Keys, list[str]] = field(default_factory=lambda: defaultdict(list))

    def inside(self, keys: Keys) -> bool:
        """Whether there is a comment among the entries of a collection."""
        lines = [*self.above.items(), *((path, [line]) for path, line in self.beside.items())]
        within = (path for path, texts in lines if any(texts) and len(path) > len(keys))
        return any(path[: len(keys)] == keys for path in within) or any(self.below.get(keys, ()))


def comments_of(text: str) -> Comments:
    """Find the comments of a text that `parse_document` takes.

    A comment behind something belongs to the first key or item on its line. One on a line of its own belongs to what
    follows, unless it is indented deeper than that: then to the end of what stands above it. What stands above the
    first key, up to the last empty line, is the head.
    """
    finder = _Finder(text)
    finder.find()
    return finder.comments


class _Finder:
    def __init__(self, text: str) -> None:
        self.text = text
        self.pieces = layout_of(text)
        self.comments = Comments()

    def find(self) -> None:
        starts = [(self._start(keys), len(keys), keys, "") for keys in self.pieces if keys]
        remarks = [(at, 0, (), body) for at, body in _remarks(self.text, self.pieces)]
        previous: Keys = ()
        first_on_line: dict[int, Keys] = {}
        gap: list[tuple[int, str]] = []  # what stands on lines of its own since the last key
        for at, depth, keys, body in sorted(starts + remarks):
            line = line_start(self.text, at)
            if depth:
                self._place(gap, previous, keys)
                previous, gap = keys, []
                first_on_line.setdefault(line, keys)
            elif not self.text[line:at].strip():
                gap.append((at, body))
            else:
                self._place_beside(first_on_line.get(line, previous), body)
        self._place(gap, previous, None)

    def _start(self, keys: Keys) -> int:
        piece = self.pieces[keys]
        return piece.key[0] if piece.key else piece.start

    def _column(self, at: int) -> int:
        return at - line_start(self.text, at)

    def _place_beside(self, keys: Keys, body: str) -> None:
        if not keys:
            self.comments.head.append(body)
        elif keys in self.comments.beside:  # of a value on several lines; none is lost
            self.comments.above[keys].append(body)
        else:
            self.comments.beside[keys] = body

    def _place(self, gap: list[tuple[int, str]], previous: Keys, following: Keys | None) -> None:
        """Share out the lines between two keys or items; `following` is None at the end of the text."""
        if not previous and following is not None:
            bodies = [body for _, body in gap]
            size = len(bodies) - bodies[::-1].index("") - 1 if "" in bodies else len(bodies)
            self.comments.head += bodies[:size]
            self.comments.above[following] += bodies[size:]
            return
        empty: list[str] = []
        home: list[str] | None = None
        for at, body in gap:
            if not body:
                empty = [""]
                continue
            owner = self._owner_above(at, previous, following) if home is None else None
            if owner is None:  # from here on all belongs to what follows
                home = self.comments.above[following] if following is not None else self.comments.below[()]
            target = home if home is not None else self.comments.below[owner or ()]
            target += [*empty, body]
            empty = []
        if following is not None:
            self.comments.above[following] += empty

    def _owner_above(self, at: int, previous: Keys, following: Keys | None) -> Keys | None:
        """The collection that a comment stands at the end of, if it does: one that what follows is not in."""
        column = self._column(at)
        for depth in range(len(previous) - 1, -1, -1):
            owner = previous[:depth]
            if following is not None and following[:depth] == owner:
                return None
            if self.pieces[owner].style == "flow":
                if at < self.pieces[owner].end:
                    return owner
            elif self._column(self._start(previous[: depth + 1])) <= column and (
                following is None or column > self._column(self._start(following))
            ):
                return owner
        return None


def _remarks(text: str, pieces: dict[Keys, Piece]) -> Iterator[tuple[int, str]]:
    """Offset and text of each comment, and of each empty line with an empty text."""
    spans = sorted(_spans(text, pieces))
    starts = [start for start, _ in spans]
    for match in _COMMENT_OR_EMPTY_LINE.finditer(text):
        at = match.start()
        around = bisect_right(starts, at) - 1
        if (around < 0 or at >= spans[around][1]) and at < len(text):
            yield at, match.group().strip()


def _spans(text: str, pieces: dict[Keys, Piece]) -> Iterator[tuple[int, int]]:
    """Where keys and scalars stand, in which a `#` is no comment and an empty line no gap."""
    for piece in pieces.values():
        if piece.key:
            yield piece.key
        if piece.event != "scalar":
            continue
        block = _BLOCK_OF_TEXT.match(text, piece.start, piece.end)
        if block:  # behind its mark a comment may stand
            yield piece.start, block.end()
            yield min(after_line(text, block.end()), piece.end), max(piece.end, line_end(text, block.end()))
        else:
            yield piece.start, piece.end
