"""The encoded splits: the arrays hold what the format says, and the figures are counted right."""

import json

import jsonschema
import numpy as np
import pytest

from pipeline.data import encode
from pipeline.data.documents import Document, write_split
from pipeline.data.tokenizer import Tokenizer, train_tokenizer
from pipeline.paths import SCHEMAS

pytestmark = pytest.mark.unit

DOCUMENTS = {
    "train": ["the cat sat on the mat\nand the rat ran\n", "  a bat, a hat ", "the end"],
    "validation": ["the rat é sat\n", "", "on \u2581 the\0mat"],
    "test": [],
}
SETTINGS = {
    "tokenizer_type": "unigram",
    "vocab_size": 276,
    "character_coverage": 1.0,
    "byte_fallback": True,
    "special_tokens": ["<tool>"],
    "max_sentence_length": 8192,
}


def write_corpus(folder):
    for split, texts in DOCUMENTS.items():
        write_split(folder / f"{split}.jsonl", [Document(id=f"{split}/{i}", text=t) for i, t in enumerate(texts)])
    return folder


def train(**changes):
    return Tokenizer.from_bytes(train_tokenizer(DOCUMENTS["train"], **SETTINGS | changes))


def test_the_arrays_hold_every_document_between_its_boundary_tokens(tmp_path):
    tokenizer, corpus = train(), write_corpus(tmp_path)

    encode.encode_corpus(tokenizer, corpus, tmp_path)

    for split, texts in DOCUMENTS.items():
        ids = np.fromfile(tmp_path / f"{split}.bin", dtype="<u2")
        offsets = np.fromfile(tmp_path / f"{split}.offsets.bin", dtype="<i8")
        assert len(offsets) == len(texts) + 1
        assert offsets[0] == 0
        assert offsets[-1] == len(ids)
        for text, start, end in zip(texts, offsets[:-1], offsets[1:], strict=True):
            assert ids[start:end].tolist() == [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]


def test_the_counts_are_those_of_the_documents(tmp_path):
    tokenizer, corpus = train(), write_corpus(tmp_path)

    counts = encode.encode_corpus(tokenizer, corpus, tmp_path)

    for split, texts in DOCUMENTS.items():
        held = counts[split]
        assert held.documents == len(texts)
        assert held.characters == sum(map(len, texts))
        assert held.bytes == sum(len(text.encode()) for text in texts)
        assert held.tokens == held.usage.sum() == sum(len(tokenizer.encode(text)) + 2 for text in texts)
        assert held.usage[tokenizer.bos_id] == held.usage[tokenizer.eos_id] == len(texts)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(2, "uint16"), (65536, "uint16"), (65537, "uint32")])
def test_the_array_type_is_the_smallest_that_holds_every_id(vocab_size, dtype):
    assert encode.dtype_for(vocab_size) == dtype
    assert np.iinfo(dtype).max >= vocab_size - 1


def test_a_large_vocabulary_is_stored_in_four_bytes(tmp_path):
    text = " ".join(map(str, range(70_000)))
    model = train_tokenizer([text], tokenizer_type="word", vocab_size=70_000, max_sentence_length=len(text))
    tokenizer = Tokenizer.from_bytes(model)
    write_split(tmp_path / "train.jsonl", [Document(id="numbers", text=text)])

    held = encode.encode_split(tokenizer, tmp_path / "train.jsonl", tmp_path, "train")

    stored = np.fromfile(tmp_path / "train.bin", dtype="<u4")
    assert len(stored) == held.tokens
    assert stored.max() > np.iinfo("uint16").max
    assert encode.round_trip(tokenizer, tmp_path / "train.jsonl", tmp_path, "train")["failures"] == 0


def test_metadata_says_how_to_read_the_arrays(tmp_path):
    tokenizer, corpus = train(), write_corpus(tmp_path)
    counts = encode.encode_corpus(tokenizer, corpus, tmp_path)

    value = encode.metadata(tokenizer, counts, settings=SETTINGS)

    assert value["vocab_size"] == 276
    assert value["dtype"] == "uint16"
    assert value["special_tokens"] == {"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3, "<tool>": 5}
    assert (value["unk_id"], value["bos_id"], value["eos_id"], value["pad_id"]) == (0, 1, 2, 3)
    assert value["splits"]["test"] == {"documents": 0, "tokens": 0, "characters": 0, "bytes": 0}


def test_the_round_trip_reads_the_stored_arrays_and_is_exact(tmp_path):
    tokenizer, corpus = train(), write_corpus(tmp_path)
    encode.encode_corpus(tokenizer, corpus, tmp_path)

    found = encode.round_trip(tokenizer, corpus / "validation.jsonl", tmp_path, "validation")

    assert found == {"split": "validation", "documents": 3, "exact": 3, "failures": 0, "first_failures": []}


def test_a_text_that_does_not_come_back_is_shown_where_it_differs(tmp_path):
    tokenizer, corpus = train(byte_fallback=False, vocab_size=20), write_corpus(tmp_path)
    encode.encode_corpus(tokenizer, corpus, tmp_path)

    found = encode.round_trip(tokenizer, corpus / "validation.jsonl", tmp_path, "validation")

    assert (found["documents"], found["exact"], found["failures"]) == (3, 1, 2)
    assert found["first_failures"][0] == {
        "document": "validation/0",
        "character": 8,
        "text": "é sat\n",
        "decoded": "\ufffd sat\n",
    }


def test_a_flipped_token_is_seen_by_the_round_trip(tmp_path):
    tokenizer, corpus = train(), write_corpus(tmp_path)
    encode.encode_corpus(tokenizer, corpus, tmp_path)
    stored = np.fromfile(tmp_path / "validation.bin", dtype="<u2")
    stored[1] = tokenizer.encode("\n")[0]
    stored.tofile(tmp_path / "validation.bin")

    found = encode.round_trip(tokenizer, corpus / "validation.jsonl", tmp_path, "validation")

    assert found["failures"] == 1
    assert found["first_failures"][0]["character"] == 0


def test_the_report_counts_bytes_unknown_and_unused_pieces(tmp_path):
    tokenizer, corpus = train(), write_corpus(tmp_path)
    counts = encode.encode_corpus(tokenizer, corpus, tmp_path)
    checked = encode.round_trip(tokenizer, corpus / "validation.jsonl", tmp_path, "validation")

    report = encode.report(tokenizer, counts, checked, settings=SETTINGS)

    ids = [i for text in DOCUMENTS["validation"] for i in tokenizer.encode(text)]
    spelled = sum(tokenizer.piece(i).startswith("<0x") for i in ids)
    figures = report["splits"]["validation"]
    assert spelled == 2 + 3 + 1  # é, U+2581, NUL
    assert figures["byte_fallback_rate"] == round(spelled / len(ids), 6)
    assert figures["unknown_rate"] == 0
    assert figures["bytes_per_token"] == round(counts["validation"].bytes / len(ids), 6)
    used = {i for text in DOCUMENTS["train"] for i in tokenizer.encode(text)}
    learned = set(range(4, 276)) - set(tokenizer.byte_ids)
    assert report["unused_pieces"]["of"] == len(learned)
    assert report["unused_pieces"]["count"] == len(learned - used)
    assert "<tool>" in report["unused_pieces"]["examples"]


@pytest.mark.parametrize("changes", [{}, {"byte_fallback": False, "vocab_size": 20}])
def test_the_report_is_json_that_its_schema_accepts(tmp_path, changes):
    tokenizer, corpus = train(**changes), write_corpus(tmp_path)
    counts = encode.encode_corpus(tokenizer, corpus, tmp_path)
    checked = encode.round_trip(tokenizer, corpus / "validation.jsonl", tmp_path, "validation")

    report = encode.report(tokenizer, counts, checked, settings=SETTINGS)

    schema = json.loads((SCHEMAS / "v1/artefact/tokenizer_report.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    validator.validate(json.loads(json.dumps(report)))
    assert report["splits"]["test"]["bytes_per_token"] is None
