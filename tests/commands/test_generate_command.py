"""Text as it comes out of a model: whole characters, and nothing from the stop text on."""

from __future__ import annotations

import pytest

from pipeline.commands.generate import decode, until

pytestmark = pytest.mark.unit


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def decode(self, ids) -> str:
        return bytes(ids).decode("utf-8", errors="replace")


@pytest.mark.parametrize("text", ["plain", "naïve café", "日本語", "a😀b", "", "\n\n", "e\N{COMBINING ACUTE ACCENT}"])
def test_pieces_are_whole_characters_and_join_to_the_text(text):
    pieces = list(decode(Bytes(), text.encode()))

    assert "".join(pieces) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_bytes_that_never_become_a_character_are_shown_in_the_end():
    pieces = list(decode(Bytes(), b"ab\xff\xff"))

    assert "".join(pieces).startswith("ab\N{REPLACEMENT CHARACTER}")


def test_text_appears_before_the_end():
    tokens = iter(b"abc")

    first = next(decode(Bytes(), tokens))

    assert first == "a"
    assert list(tokens) == list(b"bc")


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (["Hello ", "world"], [], "Hello world"),
        (["one", " STOP two"], ["STOP"], "one "),
        (["one ST", "OP two"], ["STOP"], "one "),
        (["S", "T", "O", "P"], ["STOP"], ""),
        (["S", "T", "O", "X"], ["STOP"], "STOX"),
        (["aab"], ["ab", "aab"], ""),
        (["a", "ab"], ["ab"], "a"),
        (["text ST"], ["STOP"], "text ST"),
        (["text"], [""], "text"),
    ],
)
def test_text_ends_before_the_first_stop_however_it_is_cut(pieces, stops, expected):
    assert "".join(until(pieces, stops)) == expected
