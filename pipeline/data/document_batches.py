"""Training batches of which each row is one document: a labelled text, a pair of texts, a picture."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.batches import IGNORED, Batch
from pipeline.data.encoded import EncodedSplit
from pipeline.errors import ArtifactError

Row = tuple[NDArray[Any], ...]


class Rows(Protocol):
    """The documents of a split, each as the arrays that a task learns from; all rows have the same shapes."""

    def __len__(self) -> int:
        """How many documents there are."""

    def row(self, index: int) -> Row:
        """The arrays of one document."""

    def targets(self, index: int) -> int:
        """How many targets of that document count."""

    def blank(self) -> Row:
        """Arrays of no document: nothing in them counts."""


class DocumentBatches:
    """Documents in a new random order each epoch, each exactly once. See `BatchSource`.

    Shapes never change: the last batch of an epoch is filled up with blank rows.

    Args:
        rows: the documents.
        batch_size: B, documents of a batch.
        seed: of the order.

    Raises:
        ArtifactError: there is no document.
    """

    def __init__(self, rows: Rows, *, batch_size: int, seed: int) -> None:
        if not len(rows):
            raise ArtifactError("the training split has no document", hint="give it more data")
        self._rows, self._size, self._seed = rows, batch_size, seed
        self._targets = sum(rows.targets(index) for index in range(len(rows)))
        self._epoch = -1  # of the order below
        self._order: NDArray[np.int64] = np.zeros(0, np.int64)

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return -(-len(self._rows) // self._size)

    @property
    def targets_per_epoch(self) -> int:
        """Targets of an epoch."""
        return self._targets

    def batch(self, epoch: int, index: int) -> Batch:
        """Batch `index` of `epoch`: the arrays of its rows, stacked."""
        rows = [self._rows.row(int(document)) for document in self._documents(epoch, index)]
        rows += [self._rows.blank()] * (self._size - len(rows))
        return tuple(torch.from_numpy(np.stack(arrays)) for arrays in zip(*rows, strict=True))

    def targets_in(self, epoch: int, index: int) -> int:
        """How many targets of that batch count."""
        return sum(self._rows.targets(int(document)) for document in self._documents(epoch, index))

    def _documents(self, epoch: int, index: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._rows))
            self._epoch = epoch
        return self._order[index * self._size : (index + 1) * self._size]


class _Texts:
    """Documents of text as rows of equal length.

    Args:
        split: of text.
        length: T, tokens of a row.
        pad_id: what fills up.
    """

    def __init__(self, split: EncodedSplit, *, length: int, pad_id: int) -> None:
        self._split, self._length, self._pad = split, length, pad_id

    def __len__(self) -> int:
        return self._split.documents


class LabelledTexts(_Texts):
    """Rows of (T,) ids, filled up with padding, and the number of the class.

    Of a split of kind `labelled_texts`; what is longer than T is cut off at the end.
    """

    def row(self, index: int) -> Row:
        """Ids and class of one document."""
        ids, _ = self.blank()
        document = self._split.document(index)[: self._length]
        ids[: len(document)] = document
        return ids, np.array(self._split.labels[index], np.int64)

    def targets(self, index: int) -> int:  # noqa: ARG002 - of any document
        """One: its class."""
        return 1

    def blank(self) -> Row:
        """Padding, and no class."""
        return np.full(self._length, self._pad, np.int64), np.array(IGNORED, np.int64)


class Pairs(_Texts):
    """Rows of (T,) ids of source and target, and the (T,) ids that follow them, of which only the target counts.

    Of a split of kind `pairs`; of a pair longer than T the beginning of the source is left out, so that the target is
    whole.
    """

    def row(self, index: int) -> Row:
        """Inputs and targets of one pair."""
        ids, targets = self.blank()
        document, source = self._split.document(index), self._source_length(index)
        dropped = max(0, len(document) - 1 - self._length)
        kept = document[dropped:]
        ids[: len(kept) - 1] = kept[:-1]
        first = max(source - dropped, 0)  # the second <s>, whose successor is the first that counts
        targets[first : len(kept) - 1] = kept[first + 1 :]
        return ids, targets

    def targets(self, index: int) -> int:
        """Tokens of the target, `</s>` included, as many as fit."""
        whole = len(self._split.document(index)) - 1 - self._source_length(index)
        return min(whole, self._length)

    def blank(self) -> Row:
        """Padding, and nothing that counts."""
        return np.full(self._length, self._pad, np.int64), np.full(self._length, IGNORED, np.int64)

    def _source_length(self, index: int) -> int:
        return int(self._split.arrays["middles"][index] - self._split.arrays["offsets"][index])


class Pictures:
    """Rows of one (C, H, W) uint8 picture and the number of its class, or the (K,) yes and no of its labels.

    Args:
        split: of kind `pictures` or `multilabel_pictures`.
    """

    def __init__(self, split: EncodedSplit) -> None:
        self._pictures, self._labels = split.pictures, split.labels

    def __len__(self) -> int:
        return len(self._labels)

    def row(self, index: int) -> Row:
        """Pixels of one picture, and what it is of."""
        return self._pictures[index], np.array(self._labels[index], np.int64)

    def targets(self, index: int) -> int:
        """One, its class; or as many as there are labels."""
        return int(self._labels[index].size)

    def blank(self) -> Row:
        """A black picture, of which nothing counts."""
        return np.zeros(self._pictures.shape[1:], np.uint8), np.full(self._labels.shape[1:], IGNORED, np.int64)
