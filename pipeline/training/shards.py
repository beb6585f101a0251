"""Ranks that each hold a part of every weight, gradient and moment: for models that one device has no room for."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from pipeline.training.distributed import M, Replicas, Strategy, talking


class Shards(Replicas):
    """One of several ranks that each hold a part of the model.

    Zhao et al., PyTorch FSDP, arXiv:2304.11277, as torch's `fully_shard` (FSDP2) does it: each block of the model is a
    unit, and so is what is left. The parts meet in the middle of a forward or backward pass, so memory that runs out
    there cannot be recovered from.
    """

    strategy: Strategy = "fsdp"
    can_retry = False

    def spread(self, model: nn.Module) -> None:
        """Give this rank its part of a model that every rank has built alike."""
        super().spread(model)
        self._copy = copy.deepcopy(model) if self.is_first else model
        mesh = init_device_mesh(self._device, (self.size,))
        # Autocast converts for the arithmetic, as it does for replicas. What is reduced stays in float32.
        policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
        for block in [block for part in model.modules() if isinstance(part, nn.ModuleList) for block in part]:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)
        for part in model.modules():
            if isinstance(part, FSDPModule):
                part.set_force_sum_reduction_for_comms(True)
                part.set_gradient_divide_factor(1.0)  # the loss is divided by the tokens of the whole step already

    def before_backward(self, model: nn.Module, *, last: bool) -> None:
        """Exchange gradients in the last backward pass of a step only."""
        assert isinstance(model, FSDPModule)
        model.set_requires_gradient_sync(last)

    def add_up(self, model: nn.Module) -> None:
        """Nothing is left to do: the last backward pass has reduced them."""

    def whole(self, model: M) -> M:
        """The first rank's copy of the model with the weights of this moment. All ranks call this together."""
        own = self._copy.state_dict()
        for name, tensor in model.state_dict().items():
            gathered = self.whole_tensor(tensor)
            if self.is_first:
                own[name].copy_(gathered)
        return cast("M", self._copy)

    def whole_tensor(self, tensor: Tensor) -> Tensor:
        """A weight, gradient or moment in one piece. All ranks call this together."""
        if not isinstance(tensor, DTensor):
            return tensor
        with talking():
            return tensor.full_tensor()

    def as_part(self, tensor: Tensor, weight: Tensor) -> Tensor:
        """This rank's part of what belongs to a weight and is in one piece in every rank; on the weight's device."""
        tensor = tensor.to(weight.device)
        if not isinstance(weight, DTensor) or tensor.shape != weight.shape:  # a count of steps has no parts
            return tensor
        return distribute_tensor(tensor, weight.device_mesh, weight.placements, src_data_rank=None)
