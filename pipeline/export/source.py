"""What every exporter takes and gives: the model to export, an example of its inputs, and an export that was opened."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.encoded import beside_model, read_metadata
from pipeline.files import read_artefact

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.model import Model

Inputs = NDArray[np.int64] | NDArray[np.uint8]  # (B, T) token ids, or (B, C, H, W) pixels of pictures
Logits = NDArray[np.float32]  # (B, T, V), or of a classifier (B, C)
Quantization = Literal["dynamic", "static"]

REBUILD = "foundry run --from export --force"
# What a graph takes → the names of its free dimensions, which come first.
FREE: Mapping[str, tuple[str, ...]] = {"ids": ("batch", "length"), "pictures": ("batch",)}


@dataclass(frozen=True)
class Source:
    """What is exported, and how.

    Attributes:
        model: in evaluation mode, on the CPU.
        folder: the model folder it came from.
        opset: version of the ONNX operator set.
        quantization: how `int8` finds the range of activations; None where that format is not written.
    """

    model: Model
    folder: Path
    opset: int
    quantization: Quantization | None = None

    @property
    def description(self) -> dict[str, Any]:
        """The model.json of the folder."""
        found: dict[str, Any] = read_artefact(self.folder / "model.json", "model")
        return found


class Run:
    """An export that was opened: token ids or pictures → logits.

    Args:
        logits: computes them.
    """

    def __init__(self, logits: Callable[[Inputs], Logits]) -> None:
        self._logits = logits

    def __call__(self, inputs: Inputs) -> Logits:
        """(B, T) ids → (B, T, V), or what the model gives for its inputs."""
        return self._logits(inputs)

    def greedy(self, prompt: list[int], tokens: int) -> list[int]:
        """The likeliest continuation, each token from a pass over all before it: most exports have no cache."""
        ids = list(prompt)
        for _ in range(tokens):
            ids.append(int(self(np.array([ids], dtype=np.int64))[0, -1].argmax()))
        return ids[len(prompt) :]


def traced_length(max_seq_len: int) -> int:
    """Length, in tokens, of the example that tracing follows: shorter than the longest, so that both are tested."""
    return max(2, min(16, max_seq_len // 2))  # not 1: torch.export takes lengths 0 and 1 for constants


def example(model: Model) -> Tensor:
    """Two rows of what the model takes, to trace it with."""
    import torch  # noqa: PLC0415 - a process that only opens an ONNX file needs none

    from pipeline.models.cnn import Cnn  # noqa: PLC0415

    if isinstance(model, Cnn):
        return torch.zeros((2, *model.image_size), dtype=torch.uint8)
    return torch.zeros((2, traced_length(model.max_seq_len)), dtype=torch.int64)


def copy_beside(source: Path, target: Path) -> None:
    """Copy what a model is used with, and what says how it was made."""
    for name in (*beside_model(read_metadata(source)), "spec.json"):
        shutil.copyfile(source / name, target / name)
