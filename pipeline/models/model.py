"""What every model offers besides its logits, so that stores, stages and exports need not know which one it is."""

from __future__ import annotations

import torch
from torch import nn


class Model(nn.Module):
    """A network that is built from plain arguments and saved as its state.

    Attributes:
        recompute: whether training computes the layers again in the backward pass instead of keeping what is in them.
    """

    recompute = False

    def build_tables(self, device: torch.device) -> None:
        """Make what follows from the arguments and is not in the state; most models have nothing of that kind."""

    def flops_per_row(self) -> float:
        """Floating-point operations that training spends on one row of a full batch, forward and backward."""
        raise NotImplementedError
