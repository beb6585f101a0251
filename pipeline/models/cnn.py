"""A convolutional network that chooses one class for a picture: everything about it is in this file.

* 3x3 convolutions without biases, each with a norm and GELU behind it; between stages, the larger of every two pixels.
* GroupNorm (Wu and He, arXiv:1803.08494), not BatchNorm: each picture is normalized by itself. So the loss of a batch
  is the sum of the losses of its pictures however it is cut into micro-batches, nothing beside the weights has to be
  saved, and training and evaluation compute the same.
* The mean over all places and one linear layer: any height and width, one head.
* It takes pixels as files hold them, 0 to 255, and normalizes them by the training split's own figures. They are
  arguments of the class, so every export holds them and no program that serves the model can get them wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.model import Model

_KERNEL = 3  # the smallest that sees a neighbour on each side


class Block(nn.Module):
    """A convolution that keeps height and width, its norm, and GELU."""

    def __init__(self, before: int, after: int, *, norm_groups: int, norm_epsilon: float) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(before, after, _KERNEL, padding=_KERNEL // 2, bias=False)
        self.norm = nn.GroupNorm(norm_groups, after, eps=norm_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H, W)."""
        return functional.gelu(self.norm(self.convolution(x)))


class Cnn(Model):
    """A classifier of pictures.

    Args:
        image_size: channels, height and width of a picture.
        num_classes: K, classes to choose from.
        channel_mean: of each channel, with white as 1.
        channel_std: of each channel, on the same scale.
        stage_channels: channels of each stage; height and width are halved between two stages.
        blocks_per_stage: convolutions of each stage.
        norm_groups: groups of channels that are normalized together; must divide each of `stage_channels`.
        dropout: probability of dropping a feature before the head, in training.
        norm_epsilon: added to the variance inside each norm.
        model_type: as in the spec.
    """

    input_name = "pictures"

    def __init__(
        self,
        *,
        image_size: Sequence[int],
        num_classes: int,
        channel_mean: Sequence[float],
        channel_std: Sequence[float],
        stage_channels: Sequence[int] = (32, 64),
        blocks_per_stage: int = 2,
        norm_groups: int = 8,
        dropout: float = 0.0,
        norm_epsilon: float = 1e-5,
        model_type: Literal["cnn"] = "cnn",
    ) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.model_type = model_type
        self.image_size, self.num_classes = tuple(image_size), num_classes
        self._mean, self._std = tuple(channel_mean), tuple(channel_std)
        self.stages = nn.ModuleList()
        before = self.image_size[0]
        for channels in stage_channels:
            blocks = nn.Sequential()
            for _ in range(blocks_per_stage):
                blocks.append(Block(before, channels, norm_groups=norm_groups, norm_epsilon=norm_epsilon))
                before = channels
            self.stages.append(blocks)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(before, num_classes)
        self.build_tables(torch.device("cpu"))

    def build_tables(self, device: torch.device) -> None:
        """Make the figures that pixels are normalized by; they follow from the arguments."""
        for name, values in (("mean", self._mean), ("std", self._std)):
            table = 255 * torch.tensor(values, dtype=torch.float32, device=device)  # (C,), with white as 255
            self.register_buffer(name, table.view(-1, 1, 1), persistent=False)

    def logits_shape(self, batch: int, length: int) -> tuple[int, ...]:  # noqa: ARG002 - pictures have none
        """(B, K)."""
        return batch, self.num_classes

    def flops_per_row(self) -> float:
        """Floating-point operations that training spends on one picture: 6 for each weight and place it is used at."""
        height, width = self.image_size[1:]
        total = 0
        for index, stage in enumerate(self.stages):
            if index:
                height, width = -(-height // 2), -(-width // 2)
            weights = sum(block.convolution.weight.numel() for block in stage.children() if isinstance(block, Block))
            total += weights * height * width
        return 6.0 * (total + self.head.weight.numel())

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, C, H, W) uint8 pixels → (B, K) logits."""
        x = ((pictures.float() - self.mean) / self.std).to(self.head.weight.dtype)
        for index, stage in enumerate(self.stages):
            if index:
                x = functional.max_pool2d(x, 2, ceil_mode=True)
            x = stage(x)
        logits: Tensor = self.head(self.dropout(x.mean(dim=(2, 3))))
        return logits.float()
