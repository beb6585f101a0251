"""Our tokenizer as `tokenizer.json`, the file of Hugging Face's `tokenizers`, written without that library.

The ids are those of training for every text that does not hold U+2581 (SentencePiece's own mark of a space, which the
library cannot tell from one) or, written out, a control token such as `<s>`, which the library takes for the token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sentencepiece

from pipeline.data.encoded import read_metadata
from pipeline.data.tokenizer import BOS, NEWLINE, SPACE_MARK, UNK

_KNOWN = ("<unk>", "<s>", "</s>", "<pad>")


def tokenizer_json(folder: Path) -> dict[str, Any]:
    """The content of tokenizer.json.

    Args:
        folder: with our tokenizer.model and tokenizer.json.
    """
    about = read_metadata(folder)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    whole = {NEWLINE: pieces.piece_to_id(NEWLINE), **about["special_tokens"]}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number,
                "content": token,
                "special": token in _KNOWN,
                "normalized": False,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
            }
            for token, number in sorted(whole.items(), key=lambda item: item[1])
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [_special(BOS), _sequence("A")],
            "pair": [_special(BOS), _sequence("A"), _special(BOS), _sequence("B")],
            "special_tokens": {BOS: {"id": BOS, "ids": [about["bos_id"]], "tokens": [BOS]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": _MODELS[about["tokenizer_type"]](pieces),
    }


def _special(token: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": 0}}


def _sequence(name: str) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": 0}}


def _unigram(pieces: Any) -> dict[str, Any]:
    vocabulary = [[pieces.id_to_piece(number), pieces.get_score(number)] for number in range(len(pieces))]
    return {"type": "Unigram", "unk_id": pieces.unk_id(), "vocab": vocabulary, "byte_fallback": _has_bytes(pieces)}


def _bpe(pieces: Any) -> dict[str, Any]:
    return _of_merges(pieces, _merges(pieces))


def _char(pieces: Any) -> dict[str, Any]:
    return _of_merges(pieces, [])


def _of_merges(pieces: Any, merges: list[list[str]]) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": UNK,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,  # as SentencePiece does where there are no bytes to fall back to
        "byte_fallback": _has_bytes(pieces),
        "ignore_merges": False,
        "vocab": {pieces.id_to_piece(number): number for number in range(len(pieces))},
        "merges": merges,
    }


def _merges(pieces: Any) -> list[list[str]]:
    """Every way to join two pieces into a third, those learned first in front, as SentencePiece takes them."""
    learned = [
        number
        for number in range(len(pieces))
        if not (pieces.is_control(number) or pieces.is_unknown(number) or pieces.is_byte(number))
    ]
    texts = {pieces.id_to_piece(number) for number in learned}
    return [
        [text[:cut], text[cut:]]
        for number in sorted(learned, key=pieces.get_score, reverse=True)
        for text in [pieces.id_to_piece(number)]
        for cut in range(1, len(text))
        if text[:cut] in texts and text[cut:] in texts
    ]


def _has_bytes(pieces: Any) -> bool:
    return any(pieces.is_byte(number) for number in range(len(pieces)))


# Type of a tokenizer → its model in tokenizer.json. `word` has none: its pieces hold spaces where the library cuts.
_MODELS: Mapping[str, Callable[[Any], dict[str, Any]]] = {"unigram": _unigram, "bpe": _bpe, "char": _char}
