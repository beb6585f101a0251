"""An encoded split: what the tokenizer stage leaves of a corpus, and all that training and validation read of it."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ArtifactError
from pipeline.files import read_artefact

METADATA = "tokenizer.json"
_IDS = "ids"  # a type that tokenizer.json names: `uint16` or `uint32`, whichever holds the vocabulary

_TEXT = {"tokens": (".bin", _IDS), "offsets": (".offsets.bin", "int64")}
# Kind → array → how its file's name ends after that of the split, and the type of its entries (little-endian).
ARRAYS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "tokens": _TEXT,
    "labelled_texts": {**_TEXT, "labels": (".labels.bin", "int64")},
    "pairs": {**_TEXT, "middles": (".middles.bin", "int64")},
    "pictures": {"pictures": (".pictures.bin", "uint8"), "labels": (".labels.bin", "int64")},
    "multilabel_pictures": {"pictures": (".pictures.bin", "uint8"), "labels": (".labels.bin", "uint8")},
}


@dataclass(frozen=True)
class EncodedSplit:
    """One split of an encoded corpus, mapped into memory.

    In the folder of the tokenizer stage stands `tokenizer.json`, whatever the corpus is made of, and per split one flat
    little-endian file for each array of its `kind`:

    * `tokens`: `<split>.bin` is `tokens` (N,), the ids of all documents one after the other, each as `<s> ids </s>`, of
      the type that `dtype` says; `<split>.offsets.bin` is `offsets` (D + 1,) int64, where each document starts, and
      the end.
    * `labelled_texts`: the same, and `<split>.labels.bin` is `labels` (D,) int64, the number of each document's class.
    * `pairs`: the same, where a document is `<s> source <s> target </s>`, and `<split>.middles.bin` is `middles` (D,)
      int64, where the second `<s>` of each stands.
    * `pictures`: `<split>.pictures.bin` is `pictures` (N, C, H, W) uint8, with white as 255, all of one `image_size`;
      `<split>.labels.bin` is `labels` (N,) int64, the number of each picture's class.
    * `multilabel_pictures`: the same, and `labels` is (N, K) uint8, 1 where a picture has a label and 0 where not.

    A split without documents has empty files. `metadata["splits"][name]` counts what the files hold (`documents` and
    more, by kind), `metadata["classes"]` lists the names of classes in the order of their numbers.

    Attributes:
        name: train, validation or test.
        metadata: tokenizer.json.
        arrays: name → read-only array.
    """

    name: str
    metadata: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    @property
    def documents(self) -> int:
        """How many documents it has: texts, pairs or pictures."""
        return int(self.counts["documents"])

    @property
    def counts(self) -> Mapping[str, Any]:
        """What tokenizer.json counts in this split."""
        counts: Mapping[str, Any] = self.metadata["splits"][self.name]
        return counts

    @property
    def tokens(self) -> NDArray[Any]:
        """The (N,) ids of all its documents, for kinds made of text."""
        return self.arrays["tokens"]

    @property
    def bytes(self) -> int:
        """How large it is: of texts in UTF-8, of pictures their pixels."""
        return int(self.counts["bytes"] if "bytes" in self.counts else self.arrays["pictures"].nbytes)

    @property
    def pictures(self) -> NDArray[np.uint8]:
        """(N, C, H, W) pixels, for kinds made of pictures."""
        return self.arrays["pictures"].reshape(-1, *self.metadata["image_size"])

    @property
    def labels(self) -> NDArray[Any]:
        """(N,) numbers of the classes, for kinds that have some; of labels, (N, K) whether a picture has each."""
        several = self.metadata["kind"] == "multilabel_pictures"
        return self.arrays["labels"].reshape(-1, *([len(self.metadata["classes"])] if several else []))

    def first(self, most: int | None) -> EncodedSplit:
        """The split with no more than so many documents, the first ones; None keeps all.

        Of what it leaves out it cannot say how much text it was, so only documents and tokens are counted.
        """
        if most is None or most >= self.documents:
            return self
        kept = {
            name: array[: most * len(array) // self.documents]  # so many entries each
            for name, array in self.arrays.items()
            if name not in ("tokens", "offsets")
        }
        counts = {"documents": most}
        if "tokens" in self.arrays:
            end = int(self.arrays["offsets"][most])
            kept |= {"tokens": self.arrays["tokens"][:end], "offsets": self.arrays["offsets"][: most + 1]}
            counts["tokens"] = end
        splits = {**self.metadata["splits"], self.name: counts}
        return replace(self, metadata={**self.metadata, "splits": splits}, arrays=kept)

    def document(self, index: int) -> NDArray[Any]:
        """The ids of one document, for kinds made of text."""
        start, end = self.arrays["offsets"][index : index + 2]
        return self.arrays["tokens"][start:end]


def read_encoded(folder: Path, split: str) -> EncodedSplit:
    """Map a split of an encoded corpus into memory.

    Args:
        folder: of the tokenizer stage; its manifest has been verified.
        split: train, validation or test.

    Raises:
        ArtifactError: a file is missing, or tokenizer.json is not one.
    """
    metadata = read_metadata(folder)
    arrays = {
        name: map_array(folder / f"{split}{ending}", metadata["dtype"] if dtype == _IDS else dtype)
        for name, (ending, dtype) in ARRAYS[metadata["kind"]].items()
    }
    return EncodedSplit(split, metadata, arrays)


def read_metadata(folder: Path) -> dict[str, Any]:
    """The tokenizer.json of an encoded corpus or of a model folder.

    Raises:
        ArtifactError: it is missing, or something else.
    """
    metadata: dict[str, Any] = read_artefact(folder / METADATA, "tokenizer")
    return metadata


def beside_model(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The files of an encoded corpus that a model made from it cannot be used without."""
    return (METADATA,) if "pictures" in ARRAYS[metadata["kind"]] else ("tokenizer.model", METADATA)


def map_array(path: Path, dtype: str) -> NDArray[Any]:
    """Map a flat little-endian array into memory, read-only.

    Args:
        path: its file.
        dtype: of its entries, such as `uint16`.

    Raises:
        ArtifactError: there is no such file.
    """
    entry = np.dtype(dtype).newbyteorder("<")
    try:
        if path.stat().st_size == 0:  # an empty file cannot be mapped
            return np.zeros(0, dtype=entry)
    except FileNotFoundError as error:
        hint = "build it again with: foundry run --from tokenizer --force"
        raise ArtifactError("the file is missing", where=str(path), hint=hint) from error
    return np.memmap(path, dtype=entry, mode="r")


def release(array: NDArray[Any]) -> None:
    """Take what was read of a mapped array out of this process's memory; the system keeps it in its cache as it likes.

    Each page that is read counts as memory of the process until the mapping ends, so that one which reads a large file
    in random order would come to hold all of it. Of an array that is not mapped nothing is taken.
    """
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)
