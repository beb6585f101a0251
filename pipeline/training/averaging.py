"""A running mean of the weights, kept beside the optimizer's moments: saved, restored and rolled back with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

MEAN = "mean_weight"  # its name among the moments of a parameter


def keep_mean(optimizer: torch.optim.Optimizer, decay: float) -> None:
    """From now on let every step of an optimizer be followed by one of the running mean of its parameters, in float32.

    The mean begins with the weights after the first step: mean ← decay · mean + (1 - decay) · weight. Polyak and
    Juditsky 1992; with a decay as in Izmailov et al., arXiv:1803.05407, section 3.1, and in most of what came after.

    Args:
        optimizer: the mean is kept in its state, so that whatever saves and restores that takes the mean along.
        decay: in (0, 1); the mean looks back over about 1 / (1 - decay) steps.
    """

    def follow(stepped: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [p for group in stepped.param_groups for p in group["params"] if p in stepped.state]
        with torch.no_grad():
            for parameter in parameters:
                state = stepped.state[parameter]
                if MEAN in state:
                    state[MEAN].lerp_(parameter.float(), 1 - decay)
                else:
                    state[MEAN] = parameter.detach().float().clone()

    optimizer.register_step_post_hook(follow)


@contextmanager
def mean_weights(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Inside of the block the model has the running mean of its weights, where there is one."""
    means = [(parameter, state[MEAN]) for parameter, state in _states(model, optimizer) if MEAN in state]
    own = [parameter.detach().clone() for parameter, _ in means]
    with torch.no_grad():
        for parameter, mean in means:
            parameter.copy_(mean)
    try:
        yield
    finally:
        with torch.no_grad():
            for (parameter, _), weight in zip(means, own, strict=True):
                parameter.copy_(weight)


def mean_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of a model with the running mean of its weights; empty where there is none."""
    means = {parameter: state[MEAN] for parameter, state in _states(model, optimizer) if MEAN in state}
    if not means:
        return {}
    return {name: means.get(tensor, tensor) for name, tensor in model.state_dict(keep_vars=True).items()}


def _states(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[nn.Parameter, dict[str, Any]]]:
    for parameter in model.parameters():
        if parameter in optimizer.state:  # looking it up would add it
            yield parameter, optimizer.state[parameter]
