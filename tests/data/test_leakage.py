"""The audit finds every shared passage of 64 characters or more, and nothing else."""

import random
import string
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import leakage
from pipeline.data.documents import Document
from pipeline.data.leakage import PASSAGE, audit

pytestmark = pytest.mark.unit


def prose(seed, words):
    chance = random.Random(seed)
    return " ".join("".join(chance.choices(string.ascii_lowercase, k=chance.randint(2, 9))) for _ in range(words))


def plays(seed, count=3, words=400):
    return [Document(f"{seed}-{number}", prose(f"{seed}{number}", words)) for number in range(count)]


def brute_force(train, held_out):
    """Characters of held-out text that lie in a window which stands in train, by the definition."""
    texts = [" ".join(d.text.split()) for d in train]
    covered = 0
    for document in held_out:
        text = " ".join(document.text.split())
        marked = set()
        for start in range(len(text) - PASSAGE + 1):
            if any(text[start : start + PASSAGE] in other for other in texts):
                marked.update(range(start, start + PASSAGE))
        covered += len(marked)
    return covered


def test_texts_that_share_nothing_have_no_leak():
    found = audit(plays("a"), plays("b"))

    assert found.report() == {"documents": 0, "passages": 0, "characters": 0, "fraction": 0.0, "examples": []}


def test_a_planted_passage_is_found_with_its_two_documents():
    train, held_out = plays("a"), plays("b")
    leak = train[1].text[500:700]
    held_out[2] = Document("victim", f"{held_out[2].text[:300]}|{leak}|{held_out[2].text[300:]}")

    found = audit(train, held_out)

    assert (found.documents, found.passages, found.characters) == (0, 1, 200)
    assert found.examples == [{"held_out": "victim", "train": "a-1", "text": leak[:160]}]
    assert found.fraction == pytest.approx(200 / sum(len(d.text) for d in held_out))


@pytest.mark.parametrize(("length", "passages"), [(63, 0), (64, 1)])
def test_a_passage_counts_from_64_characters_on(length, passages):
    train, held_out = plays("a", 1), plays("b", 1)
    leak = "x" + train[0].text[300:].lstrip()[: length - 1]
    train[0] = Document("a", f"{train[0].text} A{leak}B")
    held_out[0] = Document("b", f"{held_out[0].text} C{leak}D")

    assert audit(train, held_out).passages == passages


def test_other_line_breaks_do_not_hide_a_leak():
    train = plays("a", 1)
    held_out = [Document("b", train[0].text[100:400].replace(" ", "\n  "))]

    assert audit(train, held_out).passages == 1


def test_a_shared_document_is_counted_even_when_it_is_short():
    found = audit([Document("a", "Exit,  pursued by a bear")], [Document("b", "Exit, pursued\nby a bear")])

    assert (found.documents, found.passages) == (1, 0)


def test_the_end_of_one_document_and_the_start_of_the_next_are_no_passage():
    half = prose("x", 8)[:40]
    train = [Document("a", half), Document("b", half)]

    assert audit(train, [Document("c", half), Document("d", half)]).passages == 0
    assert audit([Document("a", f"{half} {half}")], [Document("c", half), Document("d", half)]).passages == 0


def test_a_passage_at_the_border_of_two_pieces_is_found(monkeypatch):
    monkeypatch.setattr(leakage, "_PIECE", 100)
    train = plays("a", 3)
    held_out = [Document("b", train[1].text), Document("c", train[2].text[77:177])]

    found = audit(train, held_out)

    assert (found.documents, found.passages) == (1, 2)
    assert found.characters == len(train[1].text) + len(" ".join(train[2].text[77:177].split()))


@pytest.mark.parametrize("base", [leakage._BASE, 0, 1])  # 0 and 1: hashes of different windows are equal all the time
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_it_agrees_with_a_search_by_the_definition_even_when_hashes_collide(base, seed):
    chance = random.Random(seed)
    pool = ["".join(chance.choices("ab ", k=chance.randint(20, 90))) for _ in range(6)]
    train, held_out = (
        [Document(f"{side}{n}", "".join(chance.choices(pool, k=5))) for n in range(3)] for side in ("train", "held")
    )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leakage, "_BASE", base)
        found = audit(train, held_out)

    assert found.characters == brute_force(train, held_out)


def test_every_example_is_true():
    train, held_out = plays("a", 4), plays("b", 4)
    held_out = [
        Document(d.id, f"{train[n].text[50:250]} {d.text} {train[3 - n].text[:150]}") for n, d in enumerate(held_out)
    ]

    found = audit(train, held_out)

    by_id = {d.id: d.text for d in [*train, *held_out]}
    assert len(found.examples) == 5
    for example in found.examples:
        assert example["text"] in by_id[example["held_out"]]
        assert example["text"][:PASSAGE] in by_id[example["train"]]


@pytest.mark.parametrize("text", ["a" * 200_000, "- " * 100_000, prose("copy", 30_000)])
def test_repetitive_and_fully_shared_text_takes_no_longer(text):
    started = time.perf_counter()

    found = audit([Document("a", text)], [Document("b", text)])

    assert (found.documents, found.passages) == (1, 1)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(("train", "held_out"), [([], []), (["x" * 100], []), ([], ["x" * 100]), (["short"], ["tiny"])])
def test_empty_and_tiny_splits_share_nothing(train, held_out):
    found = audit([Document("a", text) for text in train], [Document("b", text) for text in held_out])

    assert (found.documents, found.passages) == (0, 0)
