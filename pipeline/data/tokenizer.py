"""A lossless SentencePiece tokenizer: its training, and text to token ids and back.

What is notable here:
- Every text survives: spaces and newlines are kept as they are, no normalisation, and what has no piece is
  spelled in UTF-8 bytes. That holds for all four types; without `byte_fallback` it holds only for known characters.
- `<s>`, `</s>`, `<pad>` and `<unk>` are control pieces, which no text encodes to: a document that says "<s>" cannot
  end another. Special tokens of the spec are the opposite, user-defined pieces: they stand in the text (as chat
  markers do), always become one id, and decode to themselves.
- SentencePiece writes a space as U+2581 and cannot tell the two apart, so a real U+2581 never reaches it: it is
  spelled in its three bytes, which decode to it.
- Decoding joins the bytes of the pieces, so it also works token by token.
- Training sees neither paths nor the clock, and uses a fixed number of threads: equal text makes equal bytes.
"""

from __future__ import annotations

import codecs
import io
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import sentencepiece

from pipeline.errors import TokenizerError

UNK, BOS, EOS, PAD = "<unk>", "<s>", "</s>", "<pad>"  # ids 0, 1, 2, 3, as in Llama
NEWLINE = "\n"
SPACE_MARK = "\N{LOWER ONE EIGHTH BLOCK}"  # U+2581, how SentencePiece writes a space
# The trainer never learns NUL, and skips a whole line for U+2585, with which it marks unknown text inside.
_RESERVED = "\0\N{LOWER FIVE EIGHTHS BLOCK}"
_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
_BYTE_PIECES = 256
_THREADS = 4  # fixed, because each thread sums its own share of the floats: another number makes other scores
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6  # kinds of pieces in sentencepiece_model.proto
_TOO_LARGE = re.compile(r"set it to a value <= (\d+)")
_TOO_SMALL = re.compile(r"smaller than required_chars\. \d+ vs (\d+)")


class Piece(NamedTuple):
    """An entry of the vocabulary: how SentencePiece writes it, which kind it is, and how likely or early it is."""

    text: str
    kind: int
    score: float

    def content(self) -> bytes:
        """The UTF-8 bytes that it stands for."""
        if self.kind == _CONTROL:
            return b""
        if self.kind == _UNKNOWN:
            return "\N{REPLACEMENT CHARACTER}".encode()
        if self.kind == _BYTE:
            return bytes([int(self.text[3:5], 16)])  # <0x0A>
        return self.text.replace(SPACE_MARK, " ").encode()


class Tokenizer:
    """Text to token ids and back.

    Args:
        model: the bytes of a `tokenizer.model` that `train_tokenizer` made.

    Raises:
        TokenizerError: the bytes are not such a model.
    """

    def __init__(self, model: bytes, *, where: str = "") -> None:
        hint = "make it again with: foundry run --from tokenizer --force"
        if not model:  # which SentencePiece takes without a word
            raise TokenizerError("the tokenizer is empty", where=where, hint=hint)
        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            pieces = list(read_pieces(model))
            self._bytes = [piece.content() for piece in pieces]
        except (RuntimeError, ValueError, LookupError) as error:
            raise TokenizerError("this is not a SentencePiece model", where=where, hint=hint) from error
        self.unk_id: int = processor.unk_id()
        self.bos_id: int = processor.bos_id()
        self.eos_id: int = processor.eos_id()
        self.pad_id: int = processor.pad_id()
        if min(self.unk_id, self.bos_id, self.eos_id, self.pad_id) < 0:
            message = f"the tokenizer lacks one of {UNK} {BOS} {EOS} {PAD}"
            raise TokenizerError(message, where=where, hint=hint)
        self._processor = processor
        self._byte_ids = {self._bytes[index]: index for index, piece in enumerate(pieces) if piece.kind == _BYTE}
        self._apart = {
            piece.text: [index]
            for index, piece in enumerate(pieces)
            # The word type also keeps each symbol after a space, spelled with a U+2581 that no text means.
            if piece.kind == _USER_DEFINED and SPACE_MARK not in piece.text
        }
        self._apart[SPACE_MARK] = self._spell(SPACE_MARK)
        self._cut = _cutter(self._apart)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read a `tokenizer.model` file.

        Raises:
            TokenizerError: it is missing or not a SentencePiece model.
        """
        try:
            model = path.read_bytes()
        except FileNotFoundError as error:
            hint = "make it with: foundry run --from tokenizer"
            raise TokenizerError("the tokenizer is missing", where=str(path), hint=hint) from error
        return cls(model, where=str(path))

    @classmethod
    def from_bytes(cls, model: bytes) -> Tokenizer:
        """A tokenizer from the content of a `tokenizer.model` file."""
        return cls(model)

    @property
    def vocab_size(self) -> int:
        """Number of pieces: learned, special and byte pieces together."""
        return len(self._bytes)

    @property
    def byte_ids(self) -> list[int]:
        """The ids of the 256 byte pieces in byte order; empty without byte fallback."""
        return [self._byte_ids[key] for key in sorted(self._byte_ids)]

    def piece(self, token_id: int) -> str:
        """How SentencePiece writes a token, with U+2581 for a space."""
        return str(self._processor.id_to_piece(token_id))

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes that a token adds to the text; none for `<s>`, `</s>` and `<pad>`.

        Raises:
            TokenizerError: there is no such id.
        """
        if not 0 <= token_id < self.vocab_size:
            message = f"token id {token_id} is outside of the vocabulary of {self.vocab_size} pieces"
            raise TokenizerError(message, hint="use the tokenizer that the model was trained with")
        return self._bytes[token_id]

    def encode(self, text: str) -> list[int]:
        """The token ids of a text, without `<s>` and `</s>`.

        Raises:
            TokenizerError: the text holds half a surrogate pair, which UTF-8 cannot write.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            message = f"character {error.start} is not Unicode text: {text[error.start]!r}"
            raise TokenizerError(message, hint="pass the text in UTF-8") from error
        # Symbols stand at the odd places. Cutting here keeps the word type from swallowing them, and makes the tokens
        # of a line the same wherever it stands: SentencePiece adds up scores in float32, and in a text of thousands
        # of tokens too little of the sum is left to tell close paths apart.
        parts = self._cut.split(text)
        spans = self._processor.encode(parts[0::2], num_threads=1)
        ids = self._with_spaces(spans[0])
        for symbol, span in zip(parts[1::2], spans[1:], strict=True):
            ids += self._apart[symbol]
            ids += self._with_spaces(span)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; U+FFFD stands for `<unk>` and for bytes that are not UTF-8.

        Raises:
            TokenizerError: an id is outside of the vocabulary.
        """
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def stream(self) -> TokenStream:
        """A decoder that takes one id at a time and hands out text as soon as it is complete."""
        return TokenStream(self)

    def _spell(self, character: str) -> list[int]:
        if not self._byte_ids:
            return [self.unk_id]
        return [self._byte_ids[bytes([value])] for value in character.encode()]

    def _with_spaces(self, ids: list[int]) -> list[int]:
        """Spell a space without a piece (as in an unknown word) as the byte 0x20, not as the bytes of U+2581."""
        mark = self._apart[SPACE_MARK]
        if not self._byte_ids or mark[0] not in ids:
            return ids
        spaced = []
        position = 0
        while position < len(ids):
            if ids[position : position + len(mark)] == mark:
                spaced.append(self._byte_ids[b" "])
                position += len(mark)
            else:
                spaced.append(ids[position])
                position += 1
        return spaced


class TokenStream:
    """Decodes ids as they come; the pieces it returns join to what `Tokenizer.decode` returns."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that became complete with this token; empty in the middle of a character."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def finish(self) -> str:
        """What is left of a character that was never completed, as U+FFFD."""
        return self._decoder.decode(b"", final=True)


def train_tokenizer(
    texts: Iterable[str],
    *,
    tokenizer_type: str,
    vocab_size: int,
    character_coverage: float = 1.0,
    byte_fallback: bool = True,
    special_tokens: Sequence[str] = (),
    max_sentence_length: int = 8192,
) -> bytes:
    """Train a tokenizer and return the content of its `tokenizer.model`; equal arguments give equal bytes.

    Args:
        texts: documents of the training split, the only text it may see.
        tokenizer_type: `unigram` (Kudo 2018, arXiv:1804.10959), `bpe` (Sennrich et al. 2016, arXiv:1508.07909),
            `char` or `word` (the most frequent of each).
        vocab_size: number of pieces, exactly: `<unk> <s> </s> <pad>`, newline, special and byte pieces included.
        character_coverage: share of the characters of the text that get a piece of their own.
        byte_fallback: spell what has no piece in its UTF-8 bytes (256 pieces) instead of `<unk>`.
        special_tokens: texts that always become one token.
        max_sentence_length: bytes; longer lines are cut at a character, since SentencePiece would skip them.

    Raises:
        TokenizerError: there is no text, a special token cannot be one, or the vocabulary size cannot be had; then
            the message names the largest or smallest that can.
    """
    _check_special_tokens(special_tokens)
    symbols = [NEWLINE, *special_tokens]
    # A list, because no Python code runs while SentencePiece reads it: a signal handler that raised there
    # would come out as an error of SentencePiece.
    lines = list(_training_lines(texts, symbols, max_sentence_length))
    if not lines:
        hint = "look at reports/corpus.json for where the documents went"
        raise TokenizerError("the training split holds no text to learn a tokenizer from", hint=hint)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type=tokenizer_type,
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            byte_fallback=byte_fallback,
            user_defined_symbols=symbols,
            max_sentence_length=max_sentence_length,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,  # indentation as one token: 36 % fewer tokens on Python code
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=3,
            unk_piece=UNK,
            bos_piece=BOS,
            eos_piece=EOS,
            pad_piece=PAD,
            unk_surface="\N{REPLACEMENT CHARACTER}",  # as `Tokenizer.decode` does
            num_threads=_THREADS,
            minloglevel=2,  # its log is for its developers; what went wrong comes with the exception
        )
    except RuntimeError as error:
        fixed = len((UNK, BOS, EOS, PAD)) + _BYTE_PIECES * byte_fallback
        # The word type keeps each symbol twice: as it is, and after a space.
        fixed += len(symbols) * (2 if tokenizer_type == "word" else 1)
        raise _explain(str(error), tokenizer_type, vocab_size, fixed) from error
    trained = model.getvalue()
    learned = Tokenizer(trained).vocab_size
    if learned < vocab_size:  # the char type stops without a word when it runs out of characters
        raise _too_large(tokenizer_type, vocab_size, learned)
    return trained


def read_pieces(model: bytes) -> Iterator[Piece]:
    """The vocabulary of a SentencePiece model, in the order of its ids.

    SentencePiece's own reader, `sentencepiece_model_pb2`, only loads beside one version of protobuf or later, and
    its processor does not say which pieces are user-defined. The file is a `ModelProto` whose field 1 repeats
    the pieces, each with its text in field 1, its score in field 2 and its kind in field 3.
    """
    for number, piece in _fields(model):
        if number == 1 and isinstance(piece, bytes):
            text, kind, score = "", _NORMAL, 0.0
            for inner, value in _fields(piece):
                if inner == 1 and isinstance(value, bytes):
                    text = value.decode()
                elif inner == 2 and isinstance(value, bytes):
                    (score,) = struct.unpack("<f", value)
                elif inner == 3 and isinstance(value, int):
                    kind = value
            yield Piece(text, kind, score)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The numbers and values of a protobuf message: https://protobuf.dev/programming-guides/encoding/."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        value: int | bytes
        match key & 7:
            case 0:
                value, at = _varint(message, at)
            case 2:
                size, at = _varint(message, at)
                value, at = message[at : at + size], at + size
            case fixed:
                size = {1: 8, 5: 4}[fixed]
                value, at = message[at : at + size], at + size
        yield key >> 3, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """An integer in groups of seven bits, the lowest first, and where the next field begins."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _training_lines(texts: Iterable[str], symbols: Sequence[str], limit: int) -> Iterator[str]:
    """The stretches of text between symbols, none longer than `limit` bytes."""
    # The same cuts as in `Tokenizer.encode`, and at the characters that the trainer cannot take.
    cut = re.compile("|".join(map(re.escape, _longest_first([*symbols, SPACE_MARK, *_RESERVED]))))
    for text in texts:
        for line in cut.split(text):
            yield from _cut_to(line, limit)


def _cut_to(line: str, limit: int) -> Iterator[str]:
    raw = line.encode()
    start = 0
    while start < len(raw):
        end = start + limit
        while end < len(raw) and raw[end] & 0xC0 == 0x80:  # 10xxxxxx: inside of a character
            end -= 1
        yield raw[start:end].decode()
        start = end


def _cutter(symbols: Iterable[str]) -> re.Pattern[str]:
    return re.compile(f"({'|'.join(map(re.escape, _longest_first(symbols)))})")


def _longest_first(symbols: Iterable[str]) -> list[str]:
    return sorted(symbols, key=len, reverse=True)  # so that `<tool>` wins over `<too`, as in SentencePiece


def _check_special_tokens(tokens: Sequence[str]) -> None:
    for token in tokens:
        if token in (UNK, BOS, EOS, PAD) or _BYTE_PIECE.fullmatch(token):
            message = f"special token {token!r} is built in, and text must never turn into it"
            raise TokenizerError(message, hint="take it out of tokenizer.special_tokens")
        # A space inside would be written as U+2581 by SentencePiece, and then no text matches.
        if any(c.isspace() or not c.isprintable() or c in (SPACE_MARK, *_RESERVED) for c in token):
            message = f"special token {token!r} holds white space or a character that SentencePiece keeps for itself"
            raise TokenizerError(message, hint="use visible characters only in tokenizer.special_tokens")


def _explain(reason: str, tokenizer_type: str, vocab_size: int, fixed: int) -> TokenizerError:
    if found := _TOO_LARGE.search(reason):
        return _too_large(tokenizer_type, vocab_size, int(found[1]))
    if found := _TOO_SMALL.search(reason):
        smallest = int(found[1])
    elif vocab_size < fixed:  # the char and word types say no number
        smallest = fixed
    else:
        return TokenizerError(f"SentencePiece cannot train on this text: {reason}")
    return TokenizerError(
        f"tokenizer.vocab_size {vocab_size} is too small: the pieces that a {tokenizer_type} tokenizer of this text "
        f"cannot do without are {smallest}",
        hint=f"set tokenizer.vocab_size to {smallest} or more",
    )


def _too_large(tokenizer_type: str, vocab_size: int, largest: int) -> TokenizerError:
    return TokenizerError(
        f"tokenizer.vocab_size {vocab_size} is too large: the training split has only {largest} pieces "
        f"for a {tokenizer_type} tokenizer",
        hint=f"set tokenizer.vocab_size to {largest} or less, or train on more text",
    )
