"""What the tasks on pictures share: batches, reading a picture file, and the logits of many pictures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.data.document_batches import DocumentBatches, Pictures
from pipeline.data.encoded import EncodedSplit
from pipeline.data.picture_files import decode_picture, read_picture_file
from pipeline.tasks.task import Answers, Sample

_ROWS = 256  # pictures that are scored at once; it changes memory and speed, not the scores
_SHOWN = 5  # pictures in a report


class PictureTask(Answers):
    """Say what a picture is of.

    Args:
        classes: names of the classes or labels, in the order of their numbers.
        image_size: channels, height and width of a picture.
        fit: how a picture file of another size is brought to it: a key of `picture_files.FITS`.
    """

    def __init__(self, *, classes: Sequence[str], image_size: Sequence[int], fit: str) -> None:
        self.classes, self._fit = tuple(classes), fit
        self._size = (image_size[0], image_size[1], image_size[2])

    def batches(self, split: EncodedSplit, *, batch_size: int, seed: int) -> DocumentBatches:
        """(B, C, H, W) pictures and what each is of. See `Task`."""
        return DocumentBatches(Pictures(split), batch_size=batch_size, seed=seed)

    def answer(self, model: nn.Module, prompt: str) -> Sample:
        """What the model sees on a picture file, whose name is the prompt. See `Answers`.

        Raises:
            CorpusError: the file cannot be read, or is no picture.
        """
        return self.said(prompt, self.probabilities(model, prompt))

    def samples_of(self, model: nn.Module, split: EncodedSplit) -> list[Sample]:
        """What the model sees on the first pictures of a split, beside what is right."""
        logits, labels = logits_of(model, split.pictures[:_SHOWN]), split.labels[:_SHOWN]
        return [
            self.said(f"{split.name} picture {index}: {self.right(label)}", self._named(shown))
            for index, (shown, label) in enumerate(zip(logits, labels, strict=True))
        ]

    def probabilities(self, model: nn.Module, text: str) -> dict[str, float]:
        """How likely each class is for the picture file of a name, in the order of the classes.

        Raises:
            CorpusError: the file cannot be read, or is no picture.
        """
        data = read_picture_file(Path(text), text)
        pixels, _ = decode_picture(data, name=text, size=self._size, fit=self._fit)
        return self._named(logits_of(model, pixels[np.newaxis])[0])

    def _named(self, logits: Tensor) -> dict[str, float]:
        return dict(zip(self.classes, self.shares(logits).tolist(), strict=True))

    @abstractmethod
    def shares(self, logits: Tensor) -> Tensor:
        """(K,) logits of a picture → the probability of each class."""

    @abstractmethod
    def said(self, prompt: str, shares: Mapping[str, float]) -> Sample:
        """What follows from the probabilities of the classes."""

    @abstractmethod
    def right(self, label: NDArray[Any]) -> str:
        """What a split says that a picture is of, in words."""

    @abstractmethod
    def details(self, model: nn.Module, split: EncodedSplit) -> dict[str, Any]:
        """What a validation report says of each class, by its keys there; empty where there are too many to read."""


def logits_of(model: nn.Module, pictures: NDArray[np.uint8]) -> Tensor:
    """(N, K) float32 logits, on the CPU, of (N, C, H, W) pictures. The model is in evaluation mode."""
    device = next(model.parameters()).device
    parts = []
    with torch.inference_mode():
        for first in range(0, len(pictures), _ROWS):
            chosen = torch.from_numpy(np.array(pictures[first : first + _ROWS]))
            parts.append(model(chosen.to(device)).float().cpu())
    return torch.cat(parts)
