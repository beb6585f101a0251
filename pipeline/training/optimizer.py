"""The optimizers by name, AdamW and Muon, and the learning rate of every step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

Schedule = Literal["cosine", "linear", "constant", "wsd"]

# Numbers of a matrix up to which products of several in one call are faster: 1.6 times at 128 x 128, none at 192 x 192.
_SMALL = 2**16
Method = Literal["newton_schulz", "polar_express"]
Polynomials = tuple[tuple[float, float, float], ...]  # (a, b, c) of a x + b x³ + c x⁵, in the order of their use
# How a matrix is made orthogonal, see `orthogonalized`: one polynomial five times, whose coefficients raise small
# singular values fastest and need not converge (Jordan et al., see `Muon`); or four, each the best for what those
# before it leave of singular values from 0.001 to 1 (Amsel et al., The Polar Express, arXiv:2505.16932, algorithm 1).
# The latter grow without limit right above the largest value they are for: each takes a hundredth less than it gets.
_LESS = 1.01
POLYNOMIALS: Mapping[Method, Polynomials] = {
    "newton_schulz": 5 * ((3.4445, -4.7750, 2.0315),),
    "polar_express": tuple(
        (a / _LESS, b / _LESS**3, c / _LESS**5)
        for a, b, c in (
            (8.28721201814563, -23.595886519098837, 17.300387312530933),
            (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
            (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
            (3.3184196573706015, -2.488488024314874, 0.51004894012372),
        )
    ),
}
PEAK_RATIO = "peak_ratio"  # of a group of parameters: its peak learning rate, divided by that of the run


def make_optimizer(
    model: nn.Module,
    *,
    optimizer_name: Literal["adamw", "muon"],
    learning_rate: float,
    adam_beta1: float,
    adam_beta2: float,
    adam_epsilon: float,
    weight_decay: float,
    muon_learning_rate: float,
    muon_momentum: float,
    muon_method: Method,
    products: torch.dtype,
) -> torch.optim.Optimizer:
    """The optimizer that a spec describes.

    Args:
        model: whose parameters it updates, on their device; its blocks have the name `layers`.
        optimizer_name: `adamw`; or `muon`, which is `Muon` for the weight matrices of the blocks and AdamW for all
            other parameters.
        learning_rate: peak of the schedule.
        adam_beta1: see `adamw`.
        adam_beta2: see `adamw`.
        adam_epsilon: see `adamw`.
        weight_decay: of both; in each it is multiplied by the learning rate.
        muon_learning_rate: peak of the schedule for what Muon updates.
        muon_momentum: see `Muon`.
        muon_method: see `Muon`.
        products: type in which Muon multiplies matrices: the one that the run multiplies in.
    """
    adam: dict[str, Any] = {"betas": (adam_beta1, adam_beta2), "epsilon": adam_epsilon, "weight_decay": weight_decay}
    named = dict(model.named_parameters())
    if optimizer_name == "adamw":
        return _adamw(named, learning_rate=learning_rate, **adam)
    matrices = {name: p for name, p in named.items() if p.dim() == 2 and name.startswith("layers.")}
    others = {name: p for name, p in named.items() if name not in matrices}
    return Together(
        Muon(
            [{"params": list(matrices.values()), PEAK_RATIO: muon_learning_rate / learning_rate}],
            learning_rate=muon_learning_rate,
            weight_decay=weight_decay,
            momentum=muon_momentum,
            method=muon_method,
            products=products,
        ),
        _adamw(others, learning_rate=learning_rate, **adam),
    )


def adamw(
    model: nn.Module, *, learning_rate: float, beta1: float, beta2: float, epsilon: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW that decays weight matrices and leaves norms, biases and position embeddings alone.

    Loshchilov and Hutter, arXiv:1711.05101.
    """
    named = dict(model.named_parameters())
    return _adamw(named, learning_rate=learning_rate, betas=(beta1, beta2), epsilon=epsilon, weight_decay=weight_decay)


def _adamw(
    named: dict[str, nn.Parameter],
    *,
    learning_rate: float,
    betas: tuple[float, float],
    epsilon: float,
    weight_decay: float,
) -> torch.optim.AdamW:
    decayed = [p for name, p in named.items() if p.dim() >= 2 and "embed_positions" not in name]
    others = [p for name, p in named.items() if p.dim() < 2 or "embed_positions" in name]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=epsilon, fused=True)


class Muon(torch.optim.Optimizer):
    """Steps along the running mean of each matrix's gradients, made orthogonal.

    Jordan et al., https://kellerjordan.github.io/posts/muon/, 2024. With the method `newton_schulz` and `products`
    bfloat16 it computes what torch.optim.Muon does, which knows no other type; processors without bfloat16 units are
    twice as fast in float32.

    Args:
        groups: of parameters, all of them matrices.
        learning_rate: a step goes this far, times √max(1, rows / columns).
        weight_decay: of decoupled decay; multiplied by the learning rate.
        momentum: decay of the running mean, which is taken one step ahead (Nesterov).
        method: key of `POLYNOMIALS`.
        products: type in which matrices are multiplied.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        learning_rate: float,
        weight_decay: float,
        momentum: float,
        method: Method,
        products: torch.dtype,
    ) -> None:
        super().__init__(groups, {"lr": learning_rate, "weight_decay": weight_decay, "momentum": momentum})
        self._polynomials, self._products = POLYNOMIALS[method], products

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step along the gradients that the parameters have."""
        assert closure is None, "a step evaluates nothing"
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for alike in _alike(group["params"]):
                ahead = [self._ahead(each, momentum) for each in alike]
                updates = _orthogonalized_each(ahead, self._polynomials, self._products)
                rows, columns = alike[0].shape
                for parameter, update in zip(alike, updates, strict=True):
                    parameter.mul_(1 - rate * group["weight_decay"])
                    parameter.add_(update, alpha=-rate * math.sqrt(max(1, rows / columns)))

    def _ahead(self, parameter: Tensor, momentum: float) -> Tensor:
        """The running mean of the gradients, one step ahead."""
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        mean = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(mean, momentum)


def _alike(matrices: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Small matrices of one shape together; the others, and those of which a rank has a part, one by one."""
    groups: dict[object, list[Tensor]] = {}
    for matrix in matrices:
        together = matrix.numel() <= _SMALL and type(matrix) in (Tensor, nn.Parameter)
        groups.setdefault(matrix.shape if together else id(matrix), []).append(matrix)
    yield from groups.values()


def _orthogonalized_each(matrices: list[Tensor], polynomials: Polynomials, products: torch.dtype) -> Sequence[Tensor]:
    """Matrices of one shape, orthogonalized."""
    if len(matrices) == 1:
        return [orthogonalized(matrices[0], polynomials, products)]
    return orthogonalized(torch.stack(matrices), polynomials, products).unbind()


def orthogonalized(matrix: Tensor, polynomials: Polynomials, products: torch.dtype) -> Tensor:
    """A (M, N) matrix with its singular values brought near 1, its singular vectors kept. Also each of (K, M, N).

    An odd polynomial of a matrix, which products alone compute, is that polynomial of its singular values; they come to
    lie between 0.7 and 1.2 by `newton_schulz`, and between 0.4 and 1.6 by `polar_express`, which raises those that are
    very small as far in one application less. A long matrix in float32 is multiplied only once: its iterations are
    those of the (M, M) matrix of its rows' products, and take about half the operations.
    """
    x = matrix.to(products)
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT  # the products below are of the shorter side
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value above 1
    if iterates_on_squares(*x.shape[-2:]) and products == torch.float32:
        x = _factor(x @ x.mT, polynomials) @ x
    else:
        add_product = torch.addmm if x.dim() == 2 else torch.baddbmm
        for a, b, c in polynomials:
            square = x @ x.mT
            x = add_product(x, add_product(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.mT).to(matrix.dtype)


def _factor(square: Tensor, polynomials: Polynomials) -> Tensor:
    """What all iterations together multiply a matrix X with, from X Xᵀ: each is a polynomial of it."""
    add_product = torch.addmm if square.dim() == 2 else torch.baddbmm
    whole: Tensor | None = None
    for number, (a, b, c) in enumerate(polynomials, start=1):
        factor = add_product(square, square, square, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        whole = factor if whole is None else factor @ whole
        if number < len(polynomials):
            square = factor @ square @ factor  # that of the matrix after this iteration
    assert whole is not None
    return whole


def iterates_on_squares(short: int, long: int) -> bool:
    """Whether a matrix of these sides is long enough for `orthogonalized` to spare operations, in float32.

    Of 2 · short³ operations, T iterations take T (2 r + 1) with r = long / short; the other way takes 2 r + 4 T - 3.
    """
    return long >= 2 * short


class Together(torch.optim.Optimizer):
    """Several optimizers, each over parameters of its own, that step, are saved and are restored as one.

    Their groups and their state are those of the whole: what is set here is what they use.

    Args:
        parts: the optimizers.
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts
        self._share()

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Let each take its step."""
        assert closure is None, "a step evaluates nothing"
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state that `state_dict` gave."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        groups: Iterator[dict[str, Any]] = iter(self.param_groups)
        for part in self._parts:
            part.param_groups = list(islice(groups, len(part.param_groups)))
            part.state = self.state


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of a step; groups whose peak is another one take their share of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(PEAK_RATIO, 1.0)


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
