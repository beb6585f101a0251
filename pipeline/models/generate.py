"""Sampling text from a model, one token at a time, with a cache of keys and values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pipeline.models.transformer import Cache, Transformer


def generate(
    model: Transformer,
    prompt_ids: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop_ids: Sequence[int] = (),
) -> Iterator[int]:
    """Yield the tokens that continue a prompt.

    Past `max_seq_len` the model goes on with the second half of what it has seen. The global random state is
    neither read nor changed.

    Args:
        model: in evaluation mode.
        prompt_ids: at least one token id.
        max_new_tokens: how many tokens to yield at most.
        temperature: softmax temperature; 0 always takes the likeliest token.
        top_k: sample among this many likeliest tokens only.
        top_p: sample among the likeliest tokens that together have at least this probability.
        seed: of the sampling; the same seed gives the same tokens.
        stop_ids: generation ends before any of these.
    """
    generator = torch.Generator().manual_seed(seed)
    seen = list(prompt_ids)[-model.max_seq_len :]
    fresh, cache = seen, Cache(model)
    device = model.embed_tokens.weight.device
    for _ in range(max_new_tokens):
        if cache.length + len(fresh) > model.max_seq_len:
            seen = seen[-(model.max_seq_len // 2) :]
            fresh, cache = seen, Cache(model)
        with torch.inference_mode():
            hidden = model.hidden(torch.tensor([fresh], device=device), cache)  # (1, T, D)
            logits = model.head(hidden[0, -1]).float().cpu()  # (V,): only the last position is projected
        token = choose(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        if token in stop_ids:
            return
        yield token
        seen.append(token)
        fresh = [token]


def choose(
    logits: Tensor, *, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator
) -> int:
    """Pick the next token from its (V,) logits. See `generate` for the arguments."""
    if temperature == 0:
        return int(logits.argmax())
    logits = logits / temperature
    if top_k is not None and top_k < logits.numel():
        logits[logits < logits.topk(top_k).values[-1]] = -torch.inf
    probabilities = logits.softmax(-1)
    if top_p is not None and top_p < 1:
        ranked, order = probabilities.sort(descending=True)
        before = ranked.cumsum(-1) - ranked  # probability of everything likelier
        probabilities[order[before >= top_p]] = 0
    return int(torch.multinomial(probabilities, 1, generator=generator))
