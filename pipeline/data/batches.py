"""Training batches of a token stream: which tokens stand where is a pure function of seed and epoch."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.encoded import release
from pipeline.errors import ArtifactError

IGNORED = -100  # target of a position that counts for nothing, torch's default for cross-entropy


Batch = tuple[Tensor, ...]  # any number of tensors; the first dimension of each is rows, so that it can be cut by rows


class BatchSource(Protocol):
    """Where batches come from. Everything is a pure function of epoch and index."""

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""

    @property
    def targets_per_epoch(self) -> int:
        """Targets of an epoch."""

    def batch(self, epoch: int, index: int) -> Batch:
        """Batch `index` of `epoch`, on the CPU: what the loss of the task takes."""

    def targets_in(self, epoch: int, index: int) -> int:
        """How many targets of that batch count: tokens, documents or pictures."""


class Batches:
    """Windows of a token stream in a new random order each epoch.

    The stream is cut into windows of `length` targets, at a phase that also changes with the epoch, so every
    token but the first is a target exactly once an epoch. Shapes never change: a window at an end of the stream
    and a batch at the end of an epoch are filled up with targets that are ignored.

    Args:
        tokens: (N,) token ids of one split.
        length: T, tokens of a window, at least 2.
        batch_size: B, windows of a batch.
        seed: of the order and the phase.

    Raises:
        ArtifactError: the stream has fewer than two tokens.
    """

    def __init__(self, tokens: NDArray[np.integer], *, length: int, batch_size: int, seed: int) -> None:
        assert length >= 2, "a window of one token has no past to learn from"
        if len(tokens) < 2:
            raise ArtifactError("the training split has fewer than two tokens", hint="give it more text")
        self._tokens, self._length, self._size, self._seed = tokens, length, batch_size, seed
        self._targets = len(tokens) - 1
        self._windows = self._targets // length + 1
        self._epoch = -1  # of the order below
        self._order: NDArray[np.unsignedinteger] = np.zeros(0, np.uint8)
        self._phase = 0

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return -(-self._windows // self._size)

    @property
    def targets_per_epoch(self) -> int:
        """Tokens predicted in an epoch."""
        return self._targets

    def batch(self, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Batch `index` of `epoch`: (B, T) int64 token ids and the (B, T) int64 tokens that follow them."""
        ids = np.zeros((self._size, self._length), np.int64)
        targets = np.full((self._size, self._length), IGNORED, np.int64)
        for row, window in enumerate(self._rows(epoch, index)):
            start, stop = self._bounds(int(window))
            ids[row, : stop - start] = self._tokens[start:stop]
            targets[row, : stop - start] = self._tokens[start + 1 : stop + 1]
        release(self._tokens)
        return torch.from_numpy(ids), torch.from_numpy(targets)

    def targets_in(self, epoch: int, index: int) -> int:
        """How many tokens batch `index` of `epoch` predicts."""
        return sum(stop - start for start, stop in (self._bounds(int(row)) for row in self._rows(epoch, index)))

    def _rows(self, epoch: int, index: int) -> NDArray[np.unsignedinteger]:
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, epoch])
            self._order = np.arange(self._windows, dtype=np.min_scalar_type(self._windows))
            rng.shuffle(self._order)  # the order of rng.permutation, in half its memory or less
            # The first window has `phase` targets. From the remainder up, the number of windows stays the same.
            remainder = self._targets % self._length
            whole = self._targets // self._length
            lowest, highest = (remainder, self._length) if remainder else (1, self._length - 1)
            self._phase = int(rng.integers(lowest, highest + 1)) if whole else remainder
            self._epoch = epoch
        return self._order[index * self._size : (index + 1) * self._size]

    def _bounds(self, window: int) -> tuple[int, int]:
        if window == 0:
            return 0, self._phase
        start = self._phase + (window - 1) * self._length
        return start, min(start + self._length, self._targets)
