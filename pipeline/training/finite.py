"""What is not a finite number is never kept: not in a checkpoint, and not in the model that a run leaves."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.errors import TrainingError


def require_finite(tensors: Mapping[str, Tensor], *, what: str) -> None:
    """Refuse numbers that are not finite.

    Args:
        tensors: name → values.
        what: one of them is, for the message: `weight`, `moment`, or `running mean of`.

    Raises:
        TrainingError: one is not; names the tensor.
    """
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise TrainingError(f"the {what} {name} is not finite", hint="lower training.learning_rate")
