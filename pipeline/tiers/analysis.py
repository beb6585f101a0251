"""Tier 2: what the heads look at, what an answer rests on, and whether noise changes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.data.tokenizer import Tokenizer
from pipeline.models.bert import SelfAttention
from pipeline.models.cnn import Cnn
from pipeline.models.transformer import Attention
from pipeline.tiers.examples import EXAMPLES
from pipeline.tiers.subject import Outcome, Subject, logits

_ATTENTION_ROWS, _ATTENTION_TOKENS = 8, 64
_NOISE_TOKENS = 64
_EXPLAINED_TOKENS = 16  # of the text whose answer is explained
_DEAD = 1e-6  # of what the strongest head of the layer adds: float32 would round it away
_POINTS = 8  # of the integral for each step: a trained model of four layers needs 400 to be within 0.001
_BEND = 5  # they crowd near the baseline, where norms make the answer change: even ones miss by whole logits
_AT_ONCE = 50  # of them, so that the logits of a large vocabulary fit into memory


# Attention


class _Weights(TorchFunctionMode):
    """Keeps what every softmax of a block of code gives: in our models, attention weights alone."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if function is torch.softmax:
            self.found.append(out)
        return out


def attention_patterns(subject: Subject) -> Outcome:
    """No head is dead, and few look at one token alone."""
    limits = subject.settings["attention"]
    model = subject.attending
    assert model is not None
    ids = subject.rows(_ATTENTION_ROWS, _ATTENTION_TOKENS)
    added: list[Tensor] = []
    hooks = [
        part.o_proj.register_forward_pre_hook(_keep_added(added, part.num_heads))
        for part in model.modules()
        if isinstance(part, Attention | SelfAttention)
    ]
    try:
        with _Weights() as kept:
            logits(model, ids)
    finally:
        for hook in hooks:
            hook.remove()
    layers = [_layer(weights, norms, limits) for weights, norms in zip(kept.found, added, strict=True)]
    dead = [f"layer {number} head {head}" for number, layer in enumerate(layers) for head in layer["dead"]]
    collapsed = [number for number, layer in enumerate(layers) if layer["collapsed"]]
    heads = sum(len(layer["entropy"]) for layer in layers)
    one_eyed = sum(len(layer["collapsed_heads"]) for layer in layers)
    entropy = float(np.mean([np.mean(layer["entropy"]) for layer in layers]))
    limit = (
        f"no dead head; at most {limits['collapsed_share']:.0%} of a layer's heads with a mean largest weight above "
        f"{limits['collapsed_weight']:g} or an entropy below {limits['collapsed_entropy']:g} nats"
    )
    measured = f"{heads} heads, {one_eyed} of them collapsed; entropy {entropy:.2f} nats"
    details = {"layers": layers}
    figures = {
        "maps": [weights[0].mean(0).tolist() for weights in kept.found],
        "entropy": [layer["entropy"] for layer in layers],
    }
    if dead:
        return Outcome("failed", f"dead: {', '.join(dead)}; {measured}", limit, details, figures)
    if collapsed:
        measured = f"layers {', '.join(map(str, collapsed))} have collapsed; {measured}"
    return Outcome("warning" if collapsed else "passed", measured, limit, details, figures)


def _keep_added(kept: list[Tensor], heads: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """Keep the mean size of what each head adds to the residual stream, (H,), of the layer that is hooked."""

    def keep(projection: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(projection, nn.Linear)
        batch, length, width = given[0].shape
        mixed = given[0].view(batch, length, heads, width // heads)  # (B, T, H, E)
        columns = projection.weight.view(-1, heads, width // heads)  # (D, H, E)
        kept.append(torch.einsum("bthe,dhe->bthd", mixed, columns).norm(dim=-1).mean((0, 1)))

    return keep


def _layer(weights: Tensor, added: Tensor, limits: dict[str, float]) -> dict[str, Any]:
    """The figures of one layer, from its (B, H, T, T) weights and the (H,) size of what its heads add."""
    seen = (weights > 0).any(1, keepdim=True).sum(-1)  # (B, 1, T): tokens that any head looks at
    choices = seen > 1  # where there is one token to look at, looking at it says nothing
    counted = choices.sum().clamp(min=1)
    largest = (weights.amax(-1) * choices).sum((0, 2)) / counted  # (H,)
    entropy = (torch.special.entr(weights).sum(-1) * choices).sum((0, 2)) / counted
    narrow = (largest > limits["collapsed_weight"]) | (entropy < limits["collapsed_entropy"])
    strongest = float(added.max())
    return {
        "entropy": entropy.tolist(),
        "largest_weight": largest.tolist(),
        "specialisation": float(entropy.std(correction=0)),
        "added": added.tolist(),
        "collapsed_heads": narrow.nonzero().flatten().tolist(),
        "collapsed": bool(narrow.float().mean() > limits["collapsed_share"]),
        "dead": (added <= _DEAD * strongest).nonzero().flatten().tolist(),
    }


# Answers from changed inputs


def _answers(subject: Subject, inputs: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The logits, where what the model computes with is changed: its embeddings, of pictures their pixels."""
    model = subject.attending
    if model is None:
        changed: Tensor = subject.model(change(inputs.float()))
        return changed
    hook = model.embed_tokens.register_forward_hook(lambda _module, _given, found: change(found))
    try:
        found: Tensor = subject.model(inputs)
    finally:
        hook.remove()
    return found


# Attribution


def attribution(subject: Subject) -> Outcome:
    """The attributions of an answer to its inputs add up to the answer.

    Integrated gradients from a zero baseline (Sundararajan et al., arXiv:1703.01365, section 3), by Gauss-Legendre
    quadrature whose points crowd near the baseline, eight for each step.
    """
    limits = subject.settings["attribution"]
    inputs = subject.rows(1, _EXPLAINED_TOKENS)
    places, weights = _path(_POINTS * limits["steps"])
    answer, shares, sums = _integrated(subject, inputs, places, weights)
    with torch.no_grad():
        ends = _one_answer(_answers(subject, inputs.expand(2, *inputs.shape[1:]), _scaled(torch.tensor([0.0, 1.0]))))
    gained = float(ends[1, answer] - ends[0, answer])
    delta = abs(sums - gained)
    measured = f"attributions add up to {sums:.4g}, the answer's logit changes by {gained:.4g}: {delta:.2g} apart"
    limit = f"{limits['max_convergence_delta']:g} apart, after {limits['steps']} steps"
    if not math.isfinite(delta):
        return Outcome("failed", measured, limit, {"steps": limits["steps"], "answer": answer})
    details: dict[str, Any] = {"steps": limits["steps"], "delta": delta, "change": gained, "answer": answer}
    if subject.attending is None:
        figures = {"map": shares.sum(1)[0].tolist()}
    else:
        names = _names(subject, inputs[0])
        figures = {"shares": shares[0].tolist(), "names": names}
        details["strongest"] = _strongest(names, shares[0], limits["top_tokens"])
    good = delta < limits["max_convergence_delta"]
    return Outcome("passed" if good else "warning", measured, limit, details, figures)


def _path(points: int) -> tuple[Tensor, Tensor]:
    """So many points between 0 and 1, ascending, and the weight of each in the integral."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    even = (nodes + 1) / 2
    return torch.from_numpy(even**_BEND).float(), torch.from_numpy(weights / 2 * _BEND * even ** (_BEND - 1)).float()


def _scaled(shares: Tensor) -> Callable[[Tensor], Tensor]:
    """Each row times its share of the way from the baseline."""
    return lambda found: found * _along_rows(shares, found)


def _along_rows(values: Tensor, like: Tensor) -> Tensor:
    """(B,) values in a shape that multiplies each row of (B, …) by its own."""
    return values.reshape(-1, *(1 for _ in like.shape[1:]))


def _integrated(subject: Subject, inputs: Tensor, places: Tensor, weights: Tensor) -> tuple[int, Tensor, float]:
    """The answer, what each token (1, T) or pixel (1, C, H, W) adds to its logit, and the sum of it all."""
    answer = int(_one_answer(logits(subject.model, inputs))[0].argmax())
    parts = [slice(first, first + _AT_ONCE) for first in range(0, len(places), _AT_ONCE)]
    found = [_part(subject, inputs, answer, places[part], weights[part]) for part in parts]
    attributed = torch.stack(found).sum(0)
    return answer, attributed if subject.attending is None else attributed.sum(-1), float(attributed.double().sum())


def _part(subject: Subject, inputs: Tensor, answer: int, places: Tensor, weights: Tensor) -> Tensor:
    """What some points of the path contribute to the attributions."""
    path: list[Tensor] = []

    def along(found: Tensor) -> Tensor:
        whole = found.detach()
        path.extend((whole[:1], _scaled(places)(whole).requires_grad_()))
        return path[1]

    rows = inputs.expand(len(places), *inputs.shape[1:])
    scores = _one_answer(_answers(subject, rows, along))[:, answer]
    whole, points = path
    (slopes,) = torch.autograd.grad(scores.sum(), points)
    found: Tensor = whole * (slopes * _along_rows(weights, slopes)).sum(0, keepdim=True)
    return found


def _one_answer(found: Tensor) -> Tensor:
    """(B, V) of the last place of (B, T, V) logits; (B, C) as they are."""
    return found[:, -1] if found.dim() == 3 else found


def _names(subject: Subject, ids: Tensor) -> list[str]:
    """Tokens as people read them, or their ids where the tokenizer is not at hand."""
    if subject.data is None:
        return [str(token) for token in ids.tolist()]
    tokenizer = Tokenizer.load(subject.data / "tokenizer.model")
    return [repr(tokenizer.decode([token]))[1:-1] for token in ids.tolist()]


def _strongest(names: list[str], shares: Tensor, count: int) -> list[dict[str, Any]]:
    """The tokens with the largest attributions, the largest first."""
    order = shares.abs().argsort(descending=True)[:count].tolist()
    return [{"place": place, "token": names[place], "share": float(shares[place])} for place in order]


# Robustness


def robustness(subject: Subject) -> Outcome:
    """Small noise on what the model computes with changes few of its answers."""
    limits = subject.settings["robustness"]
    inputs = subject.rows(limits["samples"], _NOISE_TOKENS)
    with torch.no_grad():
        calm = _answers(subject, inputs, lambda found: found)
        levels = [_under(subject, inputs, calm, level) for level in sorted(limits["noise_levels"])]
    details = {"levels": levels}
    worst = levels[-1]
    measured = (
        f"noise of {worst['noise']:g} deviations: {worst['agreement']:.1%} of the answers stay, KL {worst['kl']:.3g} "
        f"nats, {worst['flip_rate']:.1%} of the samples end in another one"
    )
    limit = f"{limits['warn_agreement']:.0%} stay; below {limits['alert_agreement']:.0%} it fails"
    if not worst["agreement"] >= limits["alert_agreement"]:
        return Outcome("failed", measured, limit, details, details)
    calm_enough = worst["agreement"] >= limits["warn_agreement"]
    return Outcome("passed" if calm_enough else "warning", measured, limit, details, details)


def _under(subject: Subject, inputs: Tensor, calm: Tensor, level: float) -> dict[str, float]:
    """What noise of so many standard deviations of the embeddings, or of the pixels, does to the answers."""
    generator = torch.Generator().manual_seed(0)  # the same noise at every level, but for its size

    def noisy(found: Tensor) -> Tensor:
        deviation = subject.model.std if isinstance(subject.model, Cnn) else found.std()
        return found + level * deviation * torch.randn(found.shape, generator=generator)

    disturbed = _answers(subject, inputs, noisy)
    task = EXAMPLES[subject.task_type]
    same = task.same(calm, disturbed)  # (B, T) or (B,)
    ends = same[:, -1] if same.dim() == 2 else same
    return {
        "noise": level,
        "agreement": float(same.float().mean()),
        "kl": float(task.divergence(calm, disturbed).mean()),
        "flip_rate": 1 - float(ends.float().mean()),
    }
