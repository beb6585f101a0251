"""Cleaning changes what the spec declares, counts it, and leaves the rest alone."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.cleaning import clean
from pipeline.data.documents import Document

pytestmark = pytest.mark.unit

OFF = {
    "normalize_unicode": False,
    "strip_control_characters": False,
    "strip_markdown": False,
    "drop_duplicate_documents": False,
    "drop_duplicate_paragraphs": False,
}
LONG = "The quality of mercy is not strained, it droppeth as the gentle rain from heaven."
SHORT = "Exeunt all but Hamlet"


def texts(*values):
    return [Document(id=f"d{number}", text=value) for number, value in enumerate(values)]


def test_with_every_rule_off_nothing_changes():
    documents = texts("a\r\nb\0\ufeff", "e\u0301", "a\r\nb\0\ufeff", f"{LONG}\n\n{LONG}")

    cleaned = clean(documents, **OFF)

    assert cleaned.documents == documents
    assert all(rule.documents == 0 for rule in cleaned.rules.values())


def test_control_characters_go_and_every_line_end_becomes_a_newline():
    documents = texts("\ufeffone\r\ntwo\rthree\u2028four\u0085\tfive\0\x1b\u200b\x7f")

    cleaned = clean(documents)

    assert cleaned.documents[0].text == "one\ntwo\nthree\nfour\n\tfive"
    assert cleaned.rules["strip_control_characters"].removed_characters == 6  # BOM, CR of CRLF, NUL, ESC, ZWSP, DEL


def test_joiners_that_shape_words_and_emoji_stay():
    text = "\u0646\u0627\u0645\u0647\u200c\u0627\u06cc \U0001f469\u200d\U0001f680"

    assert clean(texts(text)).documents[0].text == text


def test_unicode_is_composed():
    cleaned = clean(texts("cafe\u0301"))

    assert cleaned.documents[0].text == "café"
    assert cleaned.rules["normalize_unicode"].documents == 1
    assert cleaned.rules["normalize_unicode"].examples == [{"document": "d0", "before": "cafe\u0301", "after": "café"}]


def test_marks_are_stripped_from_markdown_and_plain_text_is_left_alone():
    documents = [Document("a.md", "# _Title_", plain=False), Document("a.txt", "# _Title_")]

    cleaned = clean(documents, strip_markdown=True)

    assert [document.text for document in cleaned.documents] == ["Title", "# _Title_"]
    assert cleaned.rules["strip_markdown"].documents == 1


def test_the_first_of_equal_documents_stays():
    cleaned = clean(texts("same", "other", "same"))

    assert [document.id for document in cleaned.documents] == ["d0", "d1"]
    assert cleaned.rules["drop_duplicate_documents"].examples == [{"document": "d2", "dropped": "same"}]


def test_documents_that_become_equal_by_cleaning_are_duplicates():
    cleaned = clean(texts("one\r\ntwo", "one\ntwo"))

    assert len(cleaned.documents) == 1


def test_long_paragraphs_that_repeat_go_and_short_ones_stay():
    documents = texts(f"{SHORT}\n\n{LONG}\n\n{SHORT}", f"new\n\n{LONG.replace(' ', chr(10), 1)}\n\n{SHORT}\n")

    cleaned = clean(documents)

    assert cleaned.documents[0] == documents[0]
    assert cleaned.documents[1].text == f"new\n\n{SHORT}\n"
    assert cleaned.rules["drop_duplicate_paragraphs"].paragraphs == 1
    assert cleaned.filtered_characters == len(LONG)


def test_a_paragraph_is_long_from_64_characters_on():
    just, under = "a" * 64, "b" * 63

    cleaned = clean(texts(f"{just}\n\n{under}\n\nend", f"{just}\n\n{under}\n\nfin"))

    assert cleaned.documents[1].text == f"{under}\n\nfin"


def test_documents_that_are_short_or_blank_are_dropped_and_counted():
    cleaned = clean(texts("", " \n ", "abc", "abcd"), min_document_characters=4)

    assert [document.text for document in cleaned.documents] == ["abcd"]
    assert cleaned.rules["min_document_characters"].documents == 3
    assert cleaned.rules["min_document_characters"].removed_characters == len(" \n " + "abc")


def test_examples_spell_out_what_cannot_be_seen():
    cleaned = clean(texts("a\u200bb"))

    assert cleaned.rules["strip_control_characters"].examples[0]["before"] == "a\\u200bb"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=200), max_size=6))
def test_cleaning_twice_is_cleaning_once(values):
    once = clean([Document(f"d{n}", value, plain=False) for n, value in enumerate(values)])

    twice = clean(once.documents)

    assert twice.documents == once.documents
    assert all(unicodedata.is_normalized("NFC", document.text) for document in once.documents)
