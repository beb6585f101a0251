"""Where values stand in a text: to the character, and no further."""

import pytest

from pipeline.errors import FoundryError
from pipeline.spec.layout import keys_of, layout_of

pytestmark = pytest.mark.unit

TEXT = """\
# head
a: 1 # one
b: &x
  c:
  - "q # r" # two
  - [1,
     2]
d: |
  text

e: *x
f:
"""


def cut(keys):
    piece = layout_of(TEXT)[keys]
    return TEXT[piece.start : piece.end]


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (("a",), "1"),
        (("b", "c"), '- "q # r" # two\n  - [1,\n     2]'),
        (("b", "c", 0), '"q # r"'),
        (("b", "c", 1), "[1,\n     2]"),
        (("b", "c", 1, 1), "2"),
        (("d",), "|\n  text"),
        (("e",), "*x"),
        (("f",), ""),
    ],
)
def test_a_value_is_cut_out_exactly(keys, text):
    assert cut(keys) == text


def test_what_an_alias_repeats_is_not_written_there():
    pieces = layout_of(TEXT)

    assert pieces["e",].label == pieces["b",].label == "x"
    assert ("e", "c") not in pieces


def test_a_path_is_read_as_it_is_shown():
    assert keys_of("dataset.source.members[0]") == ("dataset", "source", "members", 0)
    assert keys_of("a[1][2].b") == ("a", 1, 2, "b")


@pytest.mark.parametrize("path", ["", ".", "a.", ".a", "a..b", "[0]", "a[x]", "a[-1]", "a[0"])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(FoundryError, match="not the path of a setting"):
        keys_of(path)
