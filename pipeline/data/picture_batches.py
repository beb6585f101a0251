"""Training batches of pictures: which picture stands where is a pure function of seed and epoch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.batches import IGNORED


class PictureBatches:
    """Every picture once an epoch, in a new random order each epoch.

    Shapes never change: the last batch of an epoch is filled up with black pictures whose label is ignored.

    Args:
        pictures: (N, C, H, W) uint8, N at least 1.
        labels: (N,) numbers of their classes.
        batch_size: B, pictures of a batch.
        seed: of the order.
    """

    def __init__(self, pictures: NDArray[np.uint8], labels: NDArray[np.int64], *, batch_size: int, seed: int) -> None:
        self._pictures, self._labels, self._size, self._seed = pictures, labels, batch_size, seed
        self._epoch = -1  # of the order below
        self._order: NDArray[np.int64] = np.zeros(0, np.int64)

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return -(-len(self._labels) // self._size)

    @property
    def targets_per_epoch(self) -> int:
        """Pictures of an epoch."""
        return len(self._labels)

    def batch(self, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Batch `index` of `epoch`: (B, C, H, W) uint8 pictures and (B,) int64 labels."""
        rows = self._rows(epoch, index)
        pictures = np.zeros((self._size, *self._pictures.shape[1:]), np.uint8)
        labels = np.full(self._size, IGNORED, np.int64)
        pictures[: len(rows)] = self._pictures[rows]
        labels[: len(rows)] = self._labels[rows]
        return torch.from_numpy(pictures), torch.from_numpy(labels)

    def targets_in(self, epoch: int, index: int) -> int:
        """How many pictures batch `index` of `epoch` has, those that fill it up not counted."""
        return len(self._rows(epoch, index))

    def _rows(self, epoch: int, index: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._labels))
            self._epoch = epoch
        return self._order[index * self._size : (index + 1) * self._size]
