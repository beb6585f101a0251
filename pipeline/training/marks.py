"""Marks of tensors: four bytes that are other ones as soon as a bit of the tensor is another one.

A ledger keeps the marks of every weight and gradient at every step, so they must cost next to nothing. SHA-256 reads
1.4 GB/s here, what follows 7 GB/s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.training.distributed import World

MARK_BYTES = 4
_GRADIENTS = 10  # steps between two marks of gradients: those of weights alone keep to 2 % of a step
_SELDOM = 100  # steps between two marks where tensors have to be fetched first: at 2 % of a step or less
_ROW = 1024  # words of 64 bits that become one; their factors stay in the nearest cache


def mark(tensor: Tensor) -> bytes:
    """Four bytes for the bits of a tensor, whatever its shape, on whatever device and with any number of threads.

    Rows of 64-bit words are multiplied by fixed odd factors and summed modulo 2^64 (Carter and Wegman, Universal
    classes of hash functions, 1979), and the sums, with what fills no row, go through SHA-256. A changed word always
    changes its sum; that two tensors have one mark by chance is as likely as 1 in 2^32.
    """
    data = bytes_of(tensor)
    rows = data.nbytes // (8 * _ROW)
    cut = rows * 8 * _ROW
    sums = np.einsum("ij,j->i", data[:cut].view("<u8").reshape(rows, _ROW), _FACTORS)
    return hashlib.sha256(sums.astype("<u8").tobytes() + data[cut:].tobytes()).digest()[:MARK_BYTES]


def bytes_of(tensor: Tensor) -> NDArray[np.uint8]:
    """The bytes of a tensor in the order of its elements, without a copy where it lies so in the CPU's memory."""
    flat: NDArray[np.uint8] = tensor.detach().reshape(-1).view(torch.uint8).cpu().numpy()
    return flat


def _factors() -> NDArray[np.uint64]:
    """Odd numbers of 64 bits: SplitMix64 (Steele, Lea and Flood, 2014) of the numbers from 1 on."""
    z = np.arange(1, _ROW + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) | np.uint64(1)


_FACTORS = _factors()


class Marker:
    """Marks the weights and the gradients of a model that is trained.

    All ranks ask for marks together; the first one gets them.

    Args:
        model: what is trained.
        world: the ranks.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        self._model, self._world = model, world
        on_cpu = next(model.parameters()).device.type == "cpu"
        self.every = 1 if on_cpu and world.strategy != "fsdp" else _SELDOM  # of weights

    def is_due(self, step: int) -> bool:
        """Whether a step, counted from 1, is one after which weights are marked."""
        return step % self.every == 0

    def is_due_before(self, step: int) -> bool:
        """Whether it is one whose gradients are marked, too. The first is: there, most runs part that do."""
        return step == 1 or step % max(self.every, _GRADIENTS) == 0

    @property
    def names(self) -> list[str]:
        """The tensors, in the order of their marks."""
        return [name for name, _ in self._model.named_parameters()]

    def weights(self) -> bytes:
        """The marks of all weights."""
        return self._marks(self._model.parameters())

    def gradients(self) -> bytes:
        """The marks of all gradients."""
        return self._marks(parameter.grad for parameter in self._model.parameters())

    def _marks(self, tensors: Iterable[Tensor | None]) -> bytes:
        wholes = (_NOTHING if tensor is None else self._world.whole_tensor(tensor) for tensor in tensors)
        return b"".join([mark(whole) if self._world.is_first else b"" for whole in wholes])


_NOTHING = torch.zeros(0)  # the gradient of a weight that took no part
