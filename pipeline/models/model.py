"""What every model offers besides its logits, so that stores, stages and exports need not know which one it is."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn


class Model(nn.Module, ABC):
    """A network that is built from plain arguments and saved as its state.

    A model without one of the abstract methods cannot be built.

    Attributes:
        recompute: whether training computes the layers again in the backward pass instead of keeping what is in them.
        model_type: `model.model_type` of the spec.
        input_name: what it takes: `ids` of tokens, or `pictures`.
        vocab_size: rows of the embedding, of a model that reads text.
        max_seq_len: longest text, in tokens, of such a model.
    """

    recompute = False
    input_name = "ids"
    model_type: str
    vocab_size: int
    max_seq_len: int

    def build_tables(self, device: torch.device) -> None:
        """Make what follows from the arguments and is not in the state; most models have nothing of that kind."""

    @abstractmethod
    def flops_per_row(self) -> float:
        """Floating-point operations that training spends on one row of a full batch, forward and backward."""

    @abstractmethod
    def logits_shape(self, batch: int, length: int) -> tuple[int, ...]:
        """The shape of the logits for (batch, length) token ids, or for so many pictures, whose length is 1."""
