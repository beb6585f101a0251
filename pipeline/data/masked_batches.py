"""Training batches with hidden tokens: which are hidden, and behind what, is a pure function of seed, epoch and row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.batches import IGNORED, Batches
from pipeline.data.encoded import EncodedSplit

_MASKED, _REPLACED = 0.8, 0.1  # of the chosen tokens; the rest stays as it is

Ids = NDArray[np.int64]


class Masking:
    """Hides tokens as BERT does (Devlin et al., arXiv:1810.04805, section 3.1 and appendix A.1).

    Of the chosen tokens 80 % become `<mask>`, 10 % any token of the vocabulary, each as likely, and 10 % stay: so the
    model has to know every token, hidden or not, from what is around it. Control tokens are neither chosen nor put in.

    Args:
        vocab_size: V.
        mask_id: the token that hides another.
        pad_id: the token that fills up; never chosen.
        control_ids: others that stand for no text: those at the ends of documents, and what is unknown.
        length: T, tokens of a sequence.
        places: how many of so many tokens are chosen, 1 at least.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        mask_id: int,
        pad_id: int,
        control_ids: tuple[int, ...],
        length: int,
        places: Callable[[int], int],
    ) -> None:
        self.mask_id, self.pad_id, self.length = mask_id, pad_id, length
        self.places = places
        self._is_text = np.ones(vocab_size, bool)
        self._is_text[[mask_id, pad_id, *control_ids]] = False
        self._texts = np.flatnonzero(self._is_text)

    @property
    def text_ids(self) -> Ids:
        """The tokens that can be hidden."""
        return self._texts

    def candidates(self, ids: Ids) -> NDArray[np.bool_]:
        """(…, T), true where a token can be chosen: of a sequence without any text, its control tokens."""
        text = self._is_text[ids]
        return np.where(text.any(-1, keepdims=True), text, ids != self.pad_id)

    def targets(self, ids: Ids) -> int:
        """How many tokens of (B, T) sequences are chosen."""
        return sum(self.places(int(count)) for count in self.candidates(ids).sum(-1) if count)

    def hide(self, ids: Ids, generator: np.random.Generator) -> tuple[Ids, Ids, Ids]:
        """Hide tokens of one sequence.

        Args:
            ids: (T,), filled up with padding.
            generator: decides which.

        Returns:
            The (T,) ids that the model gets, the (K,) places that were chosen, and what stood there; places that there
            are fewer of than K have nothing that counts.
        """
        most = self.places(self.length)
        hidden, places, targets = ids.copy(), np.zeros(most, np.int64), np.full(most, IGNORED, np.int64)
        candidates = np.flatnonzero(self.candidates(ids))
        if not len(candidates):
            return hidden, places, targets
        chosen = np.sort(generator.choice(candidates, self.places(len(candidates)), replace=False))
        places[: len(chosen)], targets[: len(chosen)] = chosen, ids[chosen]
        fate = generator.random(len(chosen))
        others = generator.choice(self._texts, len(chosen))
        replaced = (fate >= _MASKED) & (fate < _MASKED + _REPLACED)
        hidden[chosen[fate < _MASKED]] = self.mask_id
        hidden[chosen[replaced]] = others[replaced]
        return hidden, places, targets


class MaskedBatches:
    """Windows of a token stream with hidden tokens, others in each epoch. See `BatchSource`.

    Windows and their order are those of `Batches`. What is hidden follows from the seed, the epoch, and which row of
    the epoch a window is: neither the size of a batch nor where a run went on changes it.

    Args:
        split: of texts.
        masking: of sequences of one length, T.
        batch_size: B, windows of a batch.
        seed: of the order, of where windows begin, and of what is hidden.

    Raises:
        ArtifactError: the split has fewer than two tokens.
    """

    def __init__(self, split: EncodedSplit, masking: Masking, *, batch_size: int, seed: int) -> None:
        self._windows = Batches(split.tokens, length=masking.length, batch_size=batch_size, seed=seed)
        self._masking, self._size, self._seed = masking, batch_size, seed
        self._text = len(split.tokens) - 2 * split.documents  # each document has a token at either end

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return self._windows.per_epoch

    @property
    def targets_per_epoch(self) -> int:
        """Hidden tokens of an epoch, about: windows begin elsewhere in each, and each hides a whole number."""
        return self._masking.places(self._text)

    def batch(self, epoch: int, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Batch `index` of `epoch`: (B, T) ids, the (B, K) places that were hidden, and (B, K) what stood there."""
        first = index * self._size
        rows = [
            self._masking.hide(ids, np.random.default_rng([self._seed, epoch, first + row]))
            for row, ids in enumerate(self._whole(epoch, index))
        ]
        ids, places, targets = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*rows, strict=True))
        return ids, places, targets

    def targets_in(self, epoch: int, index: int) -> int:
        """How many tokens of that batch are hidden."""
        return self._masking.targets(self._whole(epoch, index))

    def _whole(self, epoch: int, index: int) -> Ids:
        """(B, T) ids with nothing hidden yet."""
        ids, following = (tensor.numpy() for tensor in self._windows.batch(epoch, index))
        ids[following == IGNORED] = self._masking.pad_id  # what fills up is followed by nothing
        return ids


def windows_of(split: EncodedSplit, *, length: int, pad_id: int) -> Ids:
    """(N, T) windows of a whole split in order, from its first token on, the last one filled up with padding."""
    count = -(-len(split.tokens) // length)
    windows = np.full(count * length, pad_id, np.int64)
    windows[: len(split.tokens)] = split.tokens
    return windows.reshape(count, length)
