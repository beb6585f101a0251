"""Language modelling: predict each next token."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline.data.batches import IGNORED
from pipeline.models.transformer import Transformer


def loss_sum(model: Transformer, ids: Tensor, targets: Tensor) -> Tensor:
    """Sum over all targets that count of the cross-entropy in nats, for (B, T) ids and targets.

    A sum, not a mean: the caller divides by the tokens of the whole optimizer step, so that the way a step is
    cut into micro-batches does not weigh on the result.
    """
    logits = model(ids)  # (B, T, V)
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def score(
    model: Transformer, tokens: NDArray[np.integer], *, max_seq_len: int, batch_size: int = 16
) -> tuple[float, int]:
    """Score a whole split, every token after the first exactly once, in windows that do not overlap.

    Args:
        model: in evaluation mode.
        tokens: (N,) token ids.
        max_seq_len: tokens of a window; the first token of a window is predicted from nothing but the one before.
        batch_size: windows scored at once; it changes memory and speed, not the windows.

    Returns:
        The total negative log-likelihood in nats, and the number of tokens scored.
    """
    device = model.embed_tokens.weight.device
    total, scored = 0.0, 0
    starts = range(0, len(tokens) - 1, max_seq_len)
    for first in range(0, len(starts), batch_size):
        chosen = starts[first : first + batch_size]
        ids = np.zeros((len(chosen), max_seq_len), np.int64)
        targets = np.full((len(chosen), max_seq_len), IGNORED, np.int64)
        for row, start in enumerate(chosen):
            stop = min(start + max_seq_len, len(tokens) - 1)
            ids[row, : stop - start] = tokens[start:stop]
            targets[row, : stop - start] = tokens[start + 1 : stop + 1]
            scored += stop - start
        with torch.inference_mode():
            total += loss_sum(model, torch.from_numpy(ids).to(device), torch.from_numpy(targets).to(device)).item()
    return total, scored


def bits_per_byte(nats: float, text_bytes: int) -> float:
    """Total nats of a text, as bits for each of its UTF-8 bytes: comparable across tokenizers."""
    return nats / math.log(2) / text_bytes
