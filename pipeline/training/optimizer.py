"""AdamW with decay groups, and the learning rate of every step."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

Schedule = Literal["cosine", "linear", "constant", "wsd"]


def adamw(
    model: nn.Module, *, learning_rate: float, beta1: float, beta2: float, epsilon: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW that decays weight matrices and leaves norms, biases and position embeddings alone.

    Loshchilov and Hutter, arXiv:1711.05101.
    """
    named = dict(model.named_parameters())
    decayed = [p for name, p in named.items() if p.dim() >= 2 and "embed_positions" not in name]
    others = [p for name, p in named.items() if p.dim() < 2 or "embed_positions" in name]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(beta1, beta2), eps=epsilon, fused=True)


def learning_rate_at(
    step: int,
    *,
    total_steps: int,
    peak: float,
    schedule: Schedule,
    warmup_steps: int,
    min_lr_ratio: float,
    decay_ratio: float,
) -> float:
    """The learning rate of optimizer step `step`, counted from 1 to `total_steps`.

    Warmup rises linearly to the peak at step `warmup_steps`. Then `cosine` and `linear` fall to
    `min_lr_ratio` · peak at the last step, `constant` stays, and `wsd` stays and falls linearly over the last
    `decay_ratio` of all steps (Hu et al., MiniCPM, arXiv:2404.06395, section 4).
    """
    if step <= warmup_steps:
        return peak * step / warmup_steps
    if schedule == "constant":
        return peak
    first = total_steps - round(decay_ratio * total_steps) if schedule == "wsd" else warmup_steps
    first = max(first, warmup_steps)
    if step <= first:
        return peak
    share = (step - first) / (total_steps - first)  # of the way down: in (0, 1], 1 at the last step
    left = (1 + math.cos(math.pi * share)) / 2 if schedule == "cosine" else 1 - share
    return peak * (min_lr_ratio + (1 - min_lr_ratio) * left)


def warmup_length(*, total_steps: int, warmup_ratio: float, warmup_steps: int | None) -> int:
    """Steps of warmup: as given, else a share of all steps; never more than there are."""
    steps = round(warmup_ratio * total_steps) if warmup_steps is None else warmup_steps
    return min(steps, total_steps)
