"""Choosing one class for a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.batches import IGNORED
from pipeline.data.encoded import EncodedSplit, read_metadata
from pipeline.tasks.picture_task import PictureTask, logits_of
from pipeline.tasks.task import Evaluation, Sample, likeliest

_TOP = 5
_MOST_CONFUSED = 100  # classes: a table of more than 10,000 counts is not read


class VisionClassification(PictureTask):
    """Choose one class for a picture. See `PictureTask`."""

    @classmethod
    def open(cls, folder: Path, arguments: Mapping[str, Any]) -> Self:  # noqa: ARG003 - every task takes the same
        """The task of an encoded corpus or a model folder. See `table.TaskType`."""
        metadata = read_metadata(folder)
        return cls(classes=metadata["classes"], image_size=metadata["image_size"], fit=metadata["fit"])

    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """Cross-entropy of (B,) classes over the pictures that count, summed. See `Task`."""
        pictures, labels = batch
        return functional.cross_entropy(model(pictures).float(), labels, ignore_index=IGNORED, reduction="sum")

    def evaluate(self, model: nn.Module, split: EncodedSplit) -> Evaluation:
        """The loss, and the metrics of `classification_metrics`. See `Task`."""
        logits = logits_of(model, split.pictures)
        labels = torch.from_numpy(np.array(split.labels))
        nats = functional.cross_entropy(logits, labels, reduction="sum").item()
        return Evaluation(nats, len(labels), classification_metrics(logits.numpy(), split.labels))

    def shares(self, logits: Tensor) -> Tensor:
        """Probabilities that sum to 1. See `PictureTask`."""
        return logits.softmax(dim=0)

    def said(self, prompt: str, shares: Mapping[str, float]) -> Sample:
        """The likeliest class. See `PictureTask`."""
        return likeliest(prompt, shares)

    def right(self, label: NDArray[Any]) -> str:
        """The name of the class. See `PictureTask`."""
        return self.classes[int(label)]

    def details(self, model: nn.Module, split: EncodedSplit) -> dict[str, Any]:
        """`confusion`: which classes are taken for which. See `PictureTask`."""
        if len(self.classes) > _MOST_CONFUSED:
            return {}
        answers = logits_of(model, split.pictures).argmax(dim=1).numpy()
        counts = confusion_matrix(answers, split.labels, classes=len(self.classes))
        return {"confusion": {"classes": list(self.classes), "counts": counts.tolist()}}


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
