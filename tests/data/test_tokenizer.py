"""The tokenizer: nothing lost, nothing forged, the same bytes every time, and vocabulary sizes that can be had."""

import io
import os
import random
import subprocess
import sys
from functools import cache

import pytest
import sentencepiece

from pipeline.data.tokenizer import PAD, SPACE_MARK, UNK, Tokenizer, train_tokenizer
from pipeline.errors import TokenizerError
from pipeline.models.transformer import DOCUMENT_START

pytestmark = pytest.mark.unit

TYPES = ("unigram", "bpe", "char", "word")
TEXT = """HAMLET.
To be, or not to be: that is the question:
Whether 'tis nobler in the mind to suffer
  The slings and arrows of outrageous fortune,
Or to take arms against a sea of troubles,
And by opposing end them? To die: to sleep;
No more; and by a sleep to say we end
The heart-ache and the thousand natural shocks
That flesh is heir to, 'tis a consummation
Devoutly to be wish'd. To die, to sleep;

  To sleep: perchance to dream: ay, there's the rub;
For in that sleep of death what dreams may come
When we have shuffled off this mortal coil,
Must give us pause: there's the respect
That makes calamity of so long life;
"""
HARD = [
    "",
    " ",
    "\n",
    "  two  spaces, and a trailing one ",
    "\n\n\nlines\r\n\twith\ttabs\v\f\x1c\x85\u2028",
    "\0 nul and \x7f delete",
    "é e\u0301 ß 漢字 \U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \ufeff \u200b",
    f"{SPACE_MARK}the space mark {SPACE_MARK}{SPACE_MARK} itself{SPACE_MARK}",
    f"a {SPACE_MARK}\n\n {SPACE_MARK} \n",
    "\u2585 and \u2047 and \ufffd and \N{LOWER ONE EIGHTH BLOCK}",
    "<s>a</s><pad><unk><0x41>",
    "To be\u00a0or not",
    "\U0010ffff\uffff\ue000",
]


@cache
def trained(tokenizer_type="unigram", **changes):
    size = {"unigram": 330, "bpe": 330, "char": 295, "word": 300}[tokenizer_type]
    settings = {"tokenizer_type": tokenizer_type, "vocab_size": size} | changes
    return Tokenizer.from_bytes(train_tokenizer([TEXT], **settings))


def random_text(seed):
    source = random.Random(seed)
    alphabet = [chr(c) for c in range(128)] + list(TEXT[:80]) * 4 + [SPACE_MARK, "\u2585", "é", "漢", "\U0001f600"]
    return "".join(source.choices(alphabet, k=source.randrange(200)))


@pytest.mark.parametrize("tokenizer_type", TYPES)
@pytest.mark.parametrize("text", [*HARD, TEXT])
def test_every_text_comes_back_exactly(tokenizer_type, text):
    tokenizer = trained(tokenizer_type)

    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("tokenizer_type", TYPES)
def test_random_texts_come_back_exactly_and_in_a_stream(tokenizer_type):
    tokenizer = trained(tokenizer_type)
    for seed in range(100):
        text = random_text(seed)
        stream = tokenizer.stream()

        streamed = "".join(map(stream.push, tokenizer.encode(text))) + stream.finish()

        assert streamed == tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("tokenizer_type", TYPES)
def test_no_text_encodes_to_a_control_token(tokenizer_type):
    tokenizer = trained(tokenizer_type)

    ids = tokenizer.encode("<s></s><pad><unk> <s> x</s>y")

    assert not {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id} & set(ids)


@pytest.mark.parametrize("tokenizer_type", TYPES)
def test_a_special_token_is_one_token_wherever_it_stands(tokenizer_type):
    tokenizer = trained(tokenizer_type, special_tokens=("<tool>", "<|x|>", "<tool>2", 'a,"b'))
    text = 'x<tool> <tool><|x|>be<tool>2\n<tool>\na,"b'

    ids = tokenizer.encode(text)

    specials = [tokenizer.piece(i) for i in ids if 5 <= i <= 12 and tokenizer.piece(i).strip()]
    assert [piece for piece in specials if SPACE_MARK not in piece] == [
        *("<tool>", "<tool>", "<|x|>", "<tool>2", "<tool>", 'a,"b'),
    ]
    assert tokenizer.decode(ids) == text


def test_the_space_mark_is_spelled_in_bytes_and_a_space_is_not():
    tokenizer = trained()

    mark, space = tokenizer.encode(SPACE_MARK), tokenizer.encode(" ")

    assert [tokenizer.piece(i) for i in mark] == ["<0xE2>", "<0x96>", "<0x81>"]
    assert [tokenizer.piece(i) for i in space] == [SPACE_MARK]


def test_a_space_without_a_piece_is_the_byte_of_a_space():
    tokenizer = Tokenizer.from_bytes(train_tokenizer(["abcabc"], tokenizer_type="unigram", vocab_size=264))

    ids = tokenizer.encode("a b\u2581c")

    assert [tokenizer.piece(i) for i in ids] == ["a", "<0x20>", "b", "<0xE2>", "<0x96>", "<0x81>", "c"]
    assert tokenizer.decode(ids) == "a b\u2581c"


def test_the_ids_of_a_line_do_not_depend_on_what_stands_around_it():
    tokenizer = trained()
    lines = TEXT.split("\n")

    ids = tokenizer.encode(TEXT)

    newline = tokenizer.encode("\n")
    alone = [tokenizer.encode(line) for line in lines]
    assert ids == alone[0] + [i for line in alone[1:] for i in newline + line]


@pytest.mark.parametrize("tokenizer_type", TYPES)
def test_ids_and_text_are_those_of_sentencepiece_itself(tokenizer_type):
    tokenizer = trained(tokenizer_type)
    reference = sentencepiece.SentencePieceProcessor(
        model_proto=train_tokenizer([TEXT], tokenizer_type=tokenizer_type, vocab_size=tokenizer.vocab_size)
    )
    for line in TEXT.split("\n")[:6]:
        ids = tokenizer.encode(line)

        if tokenizer_type != "word":  # there a space of an unknown word differs: SentencePiece itself loses it
            assert ids == reference.encode(line)
        assert tokenizer.decode(ids) == reference.decode(ids) == line


@pytest.mark.parametrize("tokenizer_type", TYPES)
def test_without_byte_fallback_only_unseen_characters_are_lost(tokenizer_type):
    size = {"unigram": 60, "bpe": 60, "char": 40, "word": 94}[tokenizer_type]
    tokenizer = trained(tokenizer_type, byte_fallback=False, vocab_size=size)

    seen, unseen = tokenizer.encode("And by"), tokenizer.encode("And by \u00e9")

    assert tokenizer.byte_ids == []
    assert tokenizer.decode(seen) == "And by"
    assert tokenizer.unk_id in unseen
    assert tokenizer.decode(unseen).replace(" \ufffd", "\ufffd") == "And by\ufffd"  # a word is unknown with its space
    assert tokenizer.encode(SPACE_MARK) == [tokenizer.unk_id]


def test_a_stream_holds_an_unfinished_character_back():
    tokenizer = trained()
    stream = tokenizer.stream()

    pieces = [stream.push(i) for i in tokenizer.encode("\U0001f600")]
    cut = tokenizer.stream()
    cut.push(tokenizer.encode("\U0001f600")[0])

    assert pieces == ["", "", "", "\U0001f600"]
    assert cut.finish() == "\ufffd"


def test_control_tokens_add_no_text():
    tokenizer = trained()

    text = tokenizer.decode([tokenizer.bos_id, *tokenizer.encode("To be"), tokenizer.eos_id, tokenizer.pad_id])

    assert text == "To be"


def test_the_four_built_in_ids_are_those_of_llama():
    tokenizer = trained()

    assert (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 1, 2, 3)
    assert tokenizer.bos_id == DOCUMENT_START
    assert [tokenizer.piece(i) for i in range(5)] == [UNK, "<s>", "</s>", PAD, "\n"]
    assert tokenizer.vocab_size == 330


@pytest.mark.parametrize("token_id", [-1, 330, 10**9])
def test_an_id_outside_of_the_vocabulary_is_an_error(token_id):
    with pytest.raises(TokenizerError, match="outside of the vocabulary of 330"):
        trained().decode([5, token_id])


def test_half_a_surrogate_pair_is_an_error():
    with pytest.raises(TokenizerError, match=r"character 2 is not Unicode text: '\\ud800'"):
        trained().encode("ab\ud800")


@pytest.mark.parametrize("damaged", [b"", b"not a model", b"\x0a\xff\xff\xff\xff\x0f"])
def test_a_file_that_is_no_model_is_refused_by_name(tmp_path, damaged):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(damaged)

    with pytest.raises(TokenizerError) as caught:
        Tokenizer.load(path)

    assert caught.value.where == str(path)
    assert "foundry run --from tokenizer" in caught.value.hint


def test_a_damaged_model_is_refused_or_still_a_tokenizer():
    model = train_tokenizer([TEXT], tokenizer_type="unigram", vocab_size=330)
    source = random.Random(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(model)
        damaged[source.randrange(len(damaged))] ^= 1 << source.randrange(8)
        cut = source.choice([len(damaged), source.randrange(len(damaged))])

        try:
            text = Tokenizer.from_bytes(bytes(damaged[:cut])).decode([4, 5])
        except TokenizerError:
            refused += 1
        else:
            assert isinstance(text, str)
    assert refused > 50


def test_a_model_without_our_control_tokens_is_refused():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.split("\n")), model_writer=model, vocab_size=60, minloglevel=2
    )  # SentencePiece's defaults, which have no <pad>

    with pytest.raises(TokenizerError, match="lacks one of <unk> <s> </s> <pad>"):
        Tokenizer.from_bytes(model.getvalue())


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(TokenizerError, match="is missing"):
        Tokenizer.load(tmp_path / "tokenizer.model")


@pytest.mark.parametrize("tokenizer_type", TYPES)
def test_the_largest_vocabulary_named_is_the_largest_there_is(tokenizer_type):
    with pytest.raises(TokenizerError, match="too large") as caught:
        train_tokenizer([TEXT], tokenizer_type=tokenizer_type, vocab_size=5000)
    largest = int(caught.value.hint.split()[3])

    model = train_tokenizer([TEXT], tokenizer_type=tokenizer_type, vocab_size=largest)

    assert Tokenizer.from_bytes(model).vocab_size == largest
    with pytest.raises(TokenizerError, match=f"only {largest} pieces"):
        train_tokenizer([TEXT], tokenizer_type=tokenizer_type, vocab_size=largest + 1)


@pytest.mark.parametrize("byte_fallback", [True, False])
@pytest.mark.parametrize("tokenizer_type", TYPES)
def test_the_smallest_vocabulary_named_is_the_smallest_there_is(tokenizer_type, byte_fallback):
    def train(size):
        return train_tokenizer(
            [TEXT], tokenizer_type=tokenizer_type, vocab_size=size, byte_fallback=byte_fallback, special_tokens=["<x>"]
        )

    with pytest.raises(TokenizerError, match="too small") as caught:
        train(4)
    smallest = int(caught.value.hint.split()[3])

    model = train(smallest)

    assert Tokenizer.from_bytes(model).vocab_size == smallest
    with pytest.raises(TokenizerError, match="too small"):
        train(smallest - 1)


@pytest.mark.parametrize("tokenizer_type", TYPES)
def test_two_trainings_give_the_same_bytes(tokenizer_type):
    size = trained(tokenizer_type).vocab_size

    first, second = (train_tokenizer([TEXT], tokenizer_type=tokenizer_type, vocab_size=size) for _ in range(2))

    assert first == second


def test_the_bytes_depend_neither_on_the_folder_nor_on_the_hash_seed(tmp_path):
    program = (
        "import sys, hashlib; from pipeline.data.tokenizer import train_tokenizer\n"
        "text = sys.stdin.buffer.read().decode()\n"
        "print(hashlib.sha256(train_tokenizer([text], tokenizer_type='unigram', vocab_size=330)).hexdigest())"
    )
    digests = set()
    for name, seed in (("one", "1"), ("another/one", "2")):
        folder = tmp_path / name
        folder.mkdir(parents=True)

        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=folder,
            env=os.environ | {"PYTHONHASHSEED": seed},
            input=TEXT.encode(),
            capture_output=True,
            check=True,
        )

        digests.add(done.stdout)
        assert not list(folder.iterdir())  # nothing is left behind
    assert len(digests) == 1


def test_sentencepiece_does_not_talk_to_the_user(capfd):
    train_tokenizer([TEXT], tokenizer_type="unigram", vocab_size=330)
    with pytest.raises(TokenizerError):
        train_tokenizer([TEXT], tokenizer_type="unigram", vocab_size=5000)

    out, err = capfd.readouterr()

    assert out == err == ""


def test_a_line_longer_than_the_limit_is_cut_and_still_learned_from():
    rare = "Ωψ漢" * 20  # 140 bytes, in one line with nothing else

    model = train_tokenizer(
        [TEXT, rare], tokenizer_type="unigram", vocab_size=330, byte_fallback=True, max_sentence_length=16
    )

    learned = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert all(learned.piece_to_id(character) != learned.unk_id() for character in "Ωψ漢")


@pytest.mark.parametrize("reserved", ["\0", "\u2585", SPACE_MARK])
def test_a_reserved_character_does_not_hide_its_line_from_training(reserved):
    model = train_tokenizer([TEXT, f"Ωψ{reserved}Ω" * 20], tokenizer_type="unigram", vocab_size=330)

    learned = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert learned.piece_to_id("Ω") != learned.unk_id()
    assert learned.piece_to_id("ψ") != learned.unk_id()


@pytest.mark.parametrize("texts", [[], [""], ["\n\n", ""], [SPACE_MARK]])
def test_no_text_to_learn_from_is_an_error(texts):
    with pytest.raises(TokenizerError, match="no text") as caught:
        train_tokenizer(texts, tokenizer_type="unigram", vocab_size=300)

    assert caught.value.exit_code == 3


@pytest.mark.parametrize("token", ["<s>", "</s>", "<pad>", "<unk>", "<0x41>"])
def test_a_special_token_cannot_be_a_built_in_one(token):
    with pytest.raises(TokenizerError, match="built in"):
        train_tokenizer([TEXT], tokenizer_type="unigram", vocab_size=330, special_tokens=[token])


@pytest.mark.parametrize("token", ["a b", "\n", "\t", "x\u2581y", "\u2585", "a\0", "\ud800", "\u3000"])
def test_a_special_token_cannot_hold_space_or_reserved_characters(token):
    with pytest.raises(TokenizerError, match="holds white space or a character"):
        train_tokenizer([TEXT], tokenizer_type="unigram", vocab_size=330, special_tokens=[token])


def test_a_reason_we_have_no_words_for_is_passed_on():
    with pytest.raises(TokenizerError, match="cannot train on this text"):
        train_tokenizer([TEXT], tokenizer_type="unigram", vocab_size=330, character_coverage=7.0)
