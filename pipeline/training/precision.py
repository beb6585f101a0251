"""Precisions: the types that weights are kept and multiplied in, and the scale that float16 gradients need.

| precision | weights, gradients, moments | matrix products | loss scaled |
|---|---|---|---|
| 32-true | float32 | float32 | no |
| bf16-mixed | float32 | bfloat16 | no |
| 16-mixed | float32 | float16 | yes |
| bf16-true | bfloat16 | bfloat16 | no |
| 16-true | float16 | float16 | no |
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Precision:
    """The types of a precision."""

    weights: torch.dtype  # of weights, and so of gradients and moments
    products: torch.dtype  # of matrix products
    scaled: bool = False  # whether small gradients vanish in `products` unless the loss is scaled

    @property
    def mixed(self) -> bool:
        """Whether autocast converts for the products."""
        return self.weights != self.products


PRECISIONS: Mapping[str, Precision] = {
    "32-true": Precision(torch.float32, torch.float32),
    "bf16-mixed": Precision(torch.float32, torch.bfloat16),
    "16-mixed": Precision(torch.float32, torch.float16, scaled=True),
    "bf16-true": Precision(torch.bfloat16, torch.bfloat16),
    "16-true": Precision(torch.float16, torch.float16),
}
SHORT_FORMS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}

_FIRST_SCALE, _GROWTH, _BACKOFF, _GROWTH_INTERVAL = 2.0**16, 2.0, 0.5, 2000  # steps; what float16 training starts from
_SMALLEST_SCALE = 1.0  # gradients that overflow even so are too large for float16 as they are


def arithmetic(device: str, precision: str) -> torch.autocast:
    """The context in which a forward pass multiplies as its precision says."""
    types = PRECISIONS[precision]
    return torch.autocast(device, types.products if types.mixed else torch.bfloat16, enabled=types.mixed)


def convert_weights(model: nn.Module, precision: str) -> None:
    """Keep a model's weights in the type of a precision. Its tables stay in float32: positions need their digits."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(PRECISIONS[precision].weights)


def in_float32(model: Model) -> Model:
    """The model itself where its weights are float32, else a copy whose weights are."""
    if all(parameter.dtype == torch.float32 for parameter in model.parameters()):
        return model
    return copy.deepcopy(model).float()


class LossScale:
    """The factor that keeps small gradients from vanishing in float16; 1 for every other precision.

    The loss is multiplied by it and the gradients are divided by it again. It halves when they overflow and doubles
    after 2,000 steps in which they did not. Micikevicius et al., arXiv:1710.03740, section 3.2.

    Args:
        device: that the model is on.
        enabled: false for a precision that needs none.
        value: the scale to go on with; None begins with 65,536.
        steps: since it last changed.
    """

    def __init__(self, device: str, *, enabled: bool, value: float | None = None, steps: int = 0) -> None:
        self._scaler = torch.amp.GradScaler(
            device,
            init_scale=_FIRST_SCALE if value is None else value,
            growth_factor=_GROWTH,
            backoff_factor=_BACKOFF,
            growth_interval=_GROWTH_INTERVAL,
            enabled=enabled,
        )
        if enabled:
            self._scaler.load_state_dict({**self._scaler.state_dict(), "_growth_tracker": steps})

    @property
    def value(self) -> float | None:
        """The present scale; None where nothing is scaled."""
        return self._scaler.get_scale() if self._scaler.is_enabled() else None

    @property
    def steps(self) -> int:
        """Steps since it last changed."""
        return int(self._scaler.state_dict().get("_growth_tracker", 0))

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to go backwards from."""
        return self._scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> bool:
        """Divide an optimizer's gradients by the scale and adapt it for the next step.

        Returns:
            Whether they overflowed because of the scale, which is smaller now. False where it cannot fall further:
            what is not finite then is not for the scale to mend.
        """
        if not self._scaler.is_enabled():
            return False
        before = self._scaler.get_scale()
        self._scaler.unscale_(optimizer)
        self._scaler.update()
        if self._scaler.get_scale() < _SMALLEST_SCALE:
            self._scaler.update(_SMALLEST_SCALE)
        return self._scaler.get_scale() < before
