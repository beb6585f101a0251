"""A corpus as flat arrays of token ids, and what the tokenizer makes of it in figures.

`encoded.EncodedSplit` says which files there are and how they are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.documents import Document, read_split
from pipeline.data.tokenizer import BOS, EOS, PAD, UNK, Tokenizer
from pipeline.errors import TokenizerError
from pipeline.files import write_artefact

SPLITS = ("train", "validation", "test")
METADATA_FORMAT = REPORT_FORMAT = 1
_EXAMPLES = 20  # of unused pieces: enough to see of which kind they are
_FAILURES_SHOWN = 5
_CONTEXT = 20  # characters shown from where a round trip goes wrong


@dataclass(frozen=True)
class Counts:
    """What one encoded split holds.

    Attributes:
        documents: number of documents.
        tokens: entries of the array, `<s>` and `</s>` of each document included.
        characters: Unicode code points of the text.
        bytes: of the text in UTF-8.
        usage: how often each id occurs, int64 (V,).
    """

    documents: int
    tokens: int
    characters: int
    bytes: int
    usage: np.ndarray

    def sizes(self) -> dict[str, int]:
        """The four totals, as JSON holds them."""
        return {name: getattr(self, name) for name in ("documents", "tokens", "characters", "bytes")}


def dtype_for(vocab_size: int) -> str:
    """The smallest array type that holds every id: `uint16` or `uint32`."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


@dataclass(frozen=True)
class Contents:
    """What a corpus is made of, as its training split says.

    Attributes:
        kind: a key of `encoded.ARRAYS`.
        classes: the names of the classes in the order of their numbers; empty where there are none.
    """

    kind: str = "tokens"
    classes: tuple[str, ...] = ()


def contents_of(train: Path) -> Contents:
    """What the documents of a training split are, which tells how all splits are encoded.

    Raises:
        ArtifactError: the file is missing or holds something else.
    """
    labels: set[str] = set()
    pairs = False
    for document in read_split(train):
        pairs = document.target is not None
        if document.label is not None:
            labels.add(document.label)
    return Contents("labelled_texts" if labels else "pairs" if pairs else "tokens", tuple(sorted(labels)))


def encode_corpus(
    tokenizer: Tokenizer, corpus: Path, folder: Path, contents: Contents = Contents()
) -> dict[str, Counts]:
    """Encode every split of a corpus folder into `folder`, one document in memory at a time.

    Raises:
        ArtifactError: a file is missing or holds something else.
        TokenizerError: a document has a class that the training split has not.
    """
    return {split: encode_split(tokenizer, corpus / f"{split}.jsonl", folder, split, contents) for split in SPLITS}


def encode_split(
    tokenizer: Tokenizer, source: Path, folder: Path, split: str, contents: Contents = Contents()
) -> Counts:
    """Encode the documents of one JSON Lines file into the arrays of its kind: see `encoded.EncodedSplit`.

    Raises:
        ArtifactError: the file is missing or holds something else.
        TokenizerError: a document has a class that the training split has not.
    """
    dtype = np.dtype(dtype_for(tokenizer.vocab_size)).newbyteorder("<")
    usage = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    offsets, extra = [0], []
    characters = text_bytes = 0
    with (folder / f"{split}.bin").open("wb") as file:
        for document in read_split(source):
            halves = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in document.texts]
            ids = np.array([*chain.from_iterable(halves), tokenizer.eos_id], dtype=dtype)
            file.write(ids.tobytes())
            usage += np.bincount(ids, minlength=tokenizer.vocab_size)
            if contents.kind == "pairs":
                extra.append(offsets[-1] + len(halves[0]))
            elif contents.kind == "labelled_texts":
                extra.append(_number(document, contents.classes, source))
            offsets.append(offsets[-1] + len(ids))
            characters += sum(map(len, document.texts))
            text_bytes += sum(len(text.encode()) for text in document.texts)
    np.array(offsets, dtype="<i8").tofile(folder / f"{split}.offsets.bin")
    if contents.kind != "tokens":
        name = {"pairs": "middles", "labelled_texts": "labels"}[contents.kind]
        np.array(extra, dtype="<i8").tofile(folder / f"{split}.{name}.bin")
    return Counts(len(offsets) - 1, offsets[-1], characters, text_bytes, usage)


def _number(document: Document, classes: tuple[str, ...], source: Path) -> int:
    if document.label not in classes:
        raise TokenizerError(
            f"the document {document.id} is of class {document.label!r}, which no training document has",
            where=str(source),
            hint=f"add training documents of it, or another dataset.split_seed; known are {', '.join(classes)}",
        )
    return classes.index(document.label)


def metadata(
    tokenizer: Tokenizer, counts: dict[str, Counts], *, settings: dict[str, Any], contents: Contents = Contents()
) -> dict[str, Any]:
    """What `tokenizer.json` says: how the arrays are to be read.

    Args:
        tokenizer: that made them.
        counts: of `encode_corpus`.
        settings: the `tokenizer` section of the spec.
        contents: what the corpus is made of.
    """
    special = {UNK: tokenizer.unk_id, BOS: tokenizer.bos_id, EOS: tokenizer.eos_id, PAD: tokenizer.pad_id}
    special |= {token: tokenizer.encode(token)[0] for token in settings["special_tokens"]}
    return {
        "format_version": METADATA_FORMAT,
        "kind": contents.kind,
        "tokenizer_type": settings["tokenizer_type"],
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "pad_id": tokenizer.pad_id,
        "unk_id": tokenizer.unk_id,
        "special_tokens": special,
        "dtype": dtype_for(tokenizer.vocab_size),
        **({"classes": list(contents.classes)} if contents.classes else {}),
        "splits": {split: held.sizes() for split, held in counts.items()},
    }


def write_metadata(folder: Path, value: dict[str, Any]) -> None:
    """Write `tokenizer.json` beside the arrays."""
    write_artefact(folder / "tokenizer.json", "tokenizer", value)


def round_trip(tokenizer: Tokenizer, source: Path, folder: Path, split: str) -> dict[str, Any]:
    """Decode a split from the arrays on disk and compare every document with its text.

    Returns:
        documents, how many came back exactly, how many did not, and for the first few of those the document's
        id, the character where it goes wrong, and what stands there and came back.
    """
    dtype = np.dtype(dtype_for(tokenizer.vocab_size)).newbyteorder("<")
    ids = np.fromfile(folder / f"{split}.bin", dtype=dtype)
    offsets = np.fromfile(folder / f"{split}.offsets.bin", dtype="<i8")
    documents = 0
    failures = []
    for document, start, end in zip(read_split(source), offsets[:-1], offsets[1:], strict=True):
        documents += 1
        inner = ids[start + 1 : end - 1]  # without <s> and </s>
        parts = np.split(inner, np.flatnonzero(inner == tokenizer.bos_id))  # at the <s> between source and target
        decoded = [tokenizer.decode(part[part != tokenizer.bos_id].tolist()) for part in parts]
        wrong = [(was, now) for was, now in zip(document.texts, decoded, strict=True) if was != now]
        failures += [_difference(document.id, *pair) for pair in wrong[:1]]
    return {
        "split": split,
        "documents": documents,
        "exact": documents - len(failures),
        "failures": len(failures),
        "first_failures": failures[:_FAILURES_SHOWN],
    }


def report(
    tokenizer: Tokenizer, counts: dict[str, Counts], checked: dict[str, Any], *, settings: dict[str, Any]
) -> dict[str, Any]:
    """What `reports/tokenizer.json` says; no times, so that equal input gives an equal file.

    Args:
        tokenizer: the trained tokenizer.
        counts: of `encode_corpus`.
        checked: of `round_trip`.
        settings: the `tokenizer` section of the spec.
    """
    return {
        "format_version": REPORT_FORMAT,
        "tokenizer_type": settings["tokenizer_type"],
        "vocab_size": tokenizer.vocab_size,
        "special_tokens": len(settings["special_tokens"]),
        "splits": {split: _figures(tokenizer, held) for split, held in counts.items()},
        "unused_pieces": _unused(tokenizer, counts["train"].usage),
        "round_trip": checked,
    }


def _figures(tokenizer: Tokenizer, held: Counts) -> dict[str, Any]:
    """Ratios of one split; null where it is empty. Tokens are those of the text, without `<s>` and `</s>`."""
    tokens = held.tokens - 2 * held.documents
    spelled = int(held.usage[tokenizer.byte_ids].sum())
    unknown = int(held.usage[tokenizer.unk_id])
    return held.sizes() | {
        "characters_per_token": _ratio(held.characters, tokens),
        "bytes_per_token": _ratio(held.bytes, tokens),
        "byte_fallback_rate": _ratio(spelled, tokens),
        "unknown_rate": _ratio(unknown, tokens),
    }


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def _unused(tokenizer: Tokenizer, usage: np.ndarray) -> dict[str, Any]:
    """Pieces that the training split never uses, besides byte and control pieces, which are there for other text."""
    spare = {tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, *tokenizer.byte_ids}
    learned = [index for index in range(tokenizer.vocab_size) if index not in spare]
    unused = [tokenizer.piece(index) for index in learned if not usage[index]]
    return {"count": len(unused), "of": len(learned), "examples": unused[:_EXAMPLES]}


def _difference(document: str, text: str, decoded: str) -> dict[str, Any]:
    at = next((i for i, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b), min(len(text), len(decoded)))
    end = at + _CONTEXT
    return {"document": document, "character": at, "text": text[at:end], "decoded": decoded[at:end]}
