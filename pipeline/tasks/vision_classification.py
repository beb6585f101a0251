"""Choosing one class for a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.batches import IGNORED
from pipeline.data.document_batches import DocumentBatches, Pictures
from pipeline.data.encoded import EncodedSplit, read_metadata
from pipeline.data.picture_files import decode_picture, read_picture_file
from pipeline.tasks.task import Evaluation, Sample

_ROWS = 256  # pictures that are scored at once; it changes memory and speed, not the scores
_TOP = 5
_SHOWN = 5  # pictures in a report
_MOST_CONFUSED = 100  # classes: a table of more than 10,000 counts is not read


class VisionClassification:
    """Choose one class for a picture.

    Args:
        classes: their names, in the order of their numbers.
        image_size: channels, height and width of a picture.
        fit: how a picture file of another size is brought to it: a key of `picture_files.FITS`.
    """

    def __init__(self, *, classes: Sequence[str], image_size: Sequence[int], fit: str) -> None:
        self.classes, self._fit = tuple(classes), fit
        self._size = (image_size[0], image_size[1], image_size[2])

    @classmethod
    def open(cls, folder: Path, arguments: Mapping[str, Any]) -> Self:  # noqa: ARG003 - every task takes the same
        """The task of an encoded corpus or a model folder. See `table.TaskType`."""
        metadata = read_metadata(folder)
        return cls(classes=metadata["classes"], image_size=metadata["image_size"], fit=metadata["fit"])

    def batches(self, split: EncodedSplit, *, batch_size: int, seed: int) -> DocumentBatches:
        """(B, C, H, W) pictures and the (B,) numbers of their classes. See `Task`."""
        return DocumentBatches(Pictures(split), batch_size=batch_size, seed=seed)

    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """Cross-entropy over the pictures that count, summed. See `Task`."""
        pictures, labels = batch
        return functional.cross_entropy(model(pictures).float(), labels, ignore_index=IGNORED, reduction="sum")

    def evaluate(self, model: nn.Module, split: EncodedSplit) -> Evaluation:
        """The loss, and the metrics of `classification_metrics`. See `Task`."""
        logits = logits_of(model, split.pictures)
        labels = torch.from_numpy(np.array(split.labels))
        nats = functional.cross_entropy(logits, labels, reduction="sum").item()
        return Evaluation(nats, len(labels), classification_metrics(logits.numpy(), split.labels))

    def samples(
        self,
        model: nn.Module,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,  # noqa: ARG002 - for tasks that write text, as the next two
        temperature: float,  # noqa: ARG002
        seed: int,  # noqa: ARG002
    ) -> list[Sample]:
        """What the model sees on picture files, whose names are the prompts. See `Task`.

        Raises:
            CorpusError: a file cannot be read, or is no picture.
        """
        return [_sample(prompt, self.probabilities(model, prompt)) for prompt in prompts]

    def samples_of(self, model: nn.Module, split: EncodedSplit) -> list[Sample]:
        """What the model sees on the first pictures of a split, beside what is right."""
        logits = logits_of(model, split.pictures[:_SHOWN])
        return [
            _sample(f"{split.name} picture {index}: {self.classes[label]}", self._named(shares))
            for index, (shares, label) in enumerate(zip(logits, split.labels[:_SHOWN], strict=True))
        ]

    def probabilities(self, model: nn.Module, text: str) -> dict[str, float]:
        """How likely each class is for the picture file of a name, in the order of the classes.

        Raises:
            CorpusError: the file cannot be read, or is no picture.
        """
        data = read_picture_file(Path(text), text)
        pixels, _ = decode_picture(data, name=text, size=self._size, fit=self._fit)
        return self._named(logits_of(model, pixels[np.newaxis])[0])

    def confusion(self, model: nn.Module, split: EncodedSplit) -> dict[str, Any] | None:
        """Which classes are taken for which; None where there are too many to read."""
        if len(self.classes) > _MOST_CONFUSED:
            return None
        answers = logits_of(model, split.pictures).argmax(dim=1).numpy()
        counts = confusion_matrix(answers, split.labels, classes=len(self.classes))
        return {"classes": list(self.classes), "counts": counts.tolist()}

    def _named(self, logits: Tensor) -> dict[str, float]:
        return dict(zip(self.classes, logits.softmax(dim=0).tolist(), strict=True))


def _sample(prompt: str, shares: Mapping[str, float]) -> Sample:
    name, share = max(shares.items(), key=lambda item: item[1])
    said = f"{name} ({share:.0%})"
    return Sample(prompt, said, shown=said, new_tokens=0)


def logits_of(model: nn.Module, pictures: NDArray[np.uint8]) -> Tensor:
    """(N, K) float32 logits, on the CPU, of (N, C, H, W) pictures. The model is in evaluation mode."""
    device = next(model.parameters()).device
    parts = []
    with torch.inference_mode():
        for first in range(0, len(pictures), _ROWS):
            chosen = torch.from_numpy(np.array(pictures[first : first + _ROWS]))
            parts.append(model(chosen.to(device)).float().cpu())
    return torch.cat(parts)


def classification_metrics(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
    """Shares of pictures that are named rightly, as fractions.

    Args:
        logits: (N, K), N at least 1.
        labels: (N,) the right classes.

    Returns:
        `accuracy`: the class with the highest logit is the right one. `top5_accuracy`: the right one is among the five
        highest. `macro_f1`: harmonic mean of precision and recall of each class, averaged over the classes that occur
        in the labels or the answers, so that a rare class weighs as much as a common one.
    """
    ranked = np.argsort(-logits, axis=1, kind="stable")  # (N, K)
    hits = ranked == labels[:, np.newaxis]
    confusion = confusion_matrix(ranked[:, 0], labels, classes=logits.shape[1])
    right, total = np.diag(confusion), confusion.sum(axis=0) + confusion.sum(axis=1)
    occurring = total > 0
    return {
        "accuracy": float(hits[:, 0].mean()),
        "top5_accuracy": float(hits[:, :_TOP].any(axis=1).mean()),
        "macro_f1": float((2 * right[occurring] / total[occurring]).mean()),
    }


def confusion_matrix(answers: NDArray[np.int64], labels: NDArray[np.int64], *, classes: int) -> NDArray[np.int64]:
    """(K, K) counts: row, the right class; column, the answer."""
    return np.bincount(labels * classes + answers, minlength=classes**2).reshape(classes, classes)
