"""Choosing any number of labels for a picture: each is a yes or no of its own."""

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
from pipeline.data.encoded import EncodedSplit, read_metadata
from pipeline.tasks.picture_task import PictureTask, logits_of
from pipeline.tasks.task import Evaluation, Sample

_MOST_LISTED = 100  # labels: of more, a table is not read
_DIGITS = 6  # of a figure in a report, as of every other


class VisionMultilabel(PictureTask):
    """Choose any number of labels for a picture: those whose probability reaches a threshold. See `PictureTask`.

    Args:
        classes: names of the labels, in the order of their numbers.
        image_size: channels, height and width of a picture.
        fit: how a picture file of another size is brought to it.
        label_threshold: the lowest probability of a label that is given, above 0 and below 1.
    """

    def __init__(
        self, *, classes: Sequence[str], image_size: Sequence[int], fit: str, label_threshold: float = 0.5
    ) -> None:
        super().__init__(classes=classes, image_size=image_size, fit=fit)
        self.label_threshold = label_threshold

    @classmethod
    def open(
        cls,
        folder: Path,
        arguments: Mapping[str, Any],  # noqa: ARG003 - every task takes the same
        *,
        label_threshold: float,
    ) -> Self:
        """The task of an encoded corpus or a model folder. See `table.TaskType`."""
        metadata = read_metadata(folder)
        return cls(
            classes=metadata["classes"],
            image_size=metadata["image_size"],
            fit=metadata["fit"],
            label_threshold=label_threshold,
        )

    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """Cross-entropy of (B, K) yes and no over the labels that count, summed. See `Task`."""
        pictures, labels = batch
        counted = (labels != IGNORED).float()
        return functional.binary_cross_entropy_with_logits(
            model(pictures).float(), labels.clamp(min=0).float(), weight=counted, reduction="sum"
        )

    def evaluate(self, model: nn.Module, split: EncodedSplit) -> Evaluation:
        """The loss in nats per label, and the metrics of `multilabel_metrics`. See `Task`."""
        logits, labels = logits_of(model, split.pictures), split.labels
        expected = torch.from_numpy(np.array(labels, np.float32))
        nats = functional.binary_cross_entropy_with_logits(logits, expected, reduction="sum").item()
        shares = logits.sigmoid().numpy()
        return Evaluation(nats, labels.size, multilabel_metrics(shares, labels == 1, threshold=self.label_threshold))

    def shares(self, logits: Tensor) -> Tensor:
        """A probability of each label by itself. See `PictureTask`."""
        return logits.sigmoid()

    def said(self, prompt: str, shares: Mapping[str, float]) -> Sample:
        """Every label that is given, the likeliest first. See `PictureTask`."""
        text = ", ".join(f"{name} ({share:.0%})" for name, share in self.given(shares)) or "no label"
        return Sample(prompt, text, shown=text, new_tokens=0)

    def given(self, shares: Mapping[str, float]) -> list[tuple[str, float]]:
        """The labels whose probability reaches the threshold, the likeliest first."""
        ranked = sorted(shares.items(), key=lambda item: -item[1])
        return [(name, share) for name, share in ranked if share >= self.label_threshold]

    def right(self, label: NDArray[Any]) -> str:
        """The names of the labels. See `PictureTask`."""
        return ", ".join(self.classes[number] for number in np.flatnonzero(label)) or "no label"

    def details(self, model: nn.Module, split: EncodedSplit) -> dict[str, Any]:
        """`labels`: how well each is given. See `PictureTask`."""
        if len(self.classes) > _MOST_LISTED:
            return {}
        shares, right = logits_of(model, split.pictures).sigmoid().numpy(), split.labels == 1
        rows = zip(self.classes, shares.T, right.T, strict=True)
        return {
            "labels": [
                {"label": name, "pictures": int(expected.sum()), **_figures(scores, expected, self.label_threshold)}
                for name, scores, expected in rows
            ]
        }


def _figures(shares: NDArray[np.float32], right: NDArray[np.bool_], threshold: float) -> dict[str, float | None]:
    """How well one label is given, from (N,) probabilities and answers."""
    precision, recall, f1 = precision_recall_f1(shares >= threshold, right)
    return {
        "precision": round(precision, _DIGITS),
        "recall": round(recall, _DIGITS),
        "f1": round(f1, _DIGITS),
        "average_precision": round(average_precision(shares, right), _DIGITS) if right.any() else None,
    }


def multilabel_metrics(shares: NDArray[np.float32], right: NDArray[np.bool_], *, threshold: float) -> dict[str, float]:
    """How well labels are given, as fractions. A figure that would divide by nothing is 0.

    Args:
        shares: (N, K) probabilities, N at least 1.
        right: (N, K) whether a picture has a label.
        threshold: the lowest probability of a label that is given.

    Returns:
        `precision`, `recall` and `micro_f1` over all labels of all pictures together. `macro_f1`: F1 of each label,
        averaged over the labels that a picture has or is given. `exact_match`: how often the labels of a picture are
        those given, all of them and no other. `mean_average_precision`: `average_precision` of each label that a
        picture has, averaged; it needs no threshold.
    """
    given = shares >= threshold
    precision, recall, micro = precision_recall_f1(given, right)
    columns = list(zip(shares.T, given.T, right.T, strict=True))
    f1 = [precision_recall_f1(answers, expected)[2] for _, answers, expected in columns if (answers | expected).any()]
    ranked = [average_precision(scores, expected) for scores, _, expected in columns if expected.any()]
    return {
        "precision": precision,
        "recall": recall,
        "micro_f1": micro,
        "macro_f1": float(np.mean(f1)) if f1 else 0.0,
        "exact_match": float((given == right).all(axis=1).mean()),
        "mean_average_precision": float(np.mean(ranked)) if ranked else 0.0,
    }


def precision_recall_f1(given: NDArray[np.bool_], right: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Precision, recall and their harmonic mean, of answers of any shape. What would divide by nothing is 0."""
    hits, answers, expected = int((given & right).sum()), int(given.sum()), int(right.sum())
    return hits / max(1, answers), hits / max(1, expected), 2 * hits / max(1, answers + expected)


def average_precision(scores: NDArray[np.floating[Any]], right: NDArray[np.bool_]) -> float:
    """Area below the steps of precision over recall: the mean precision at which each right answer is found.

    Equal scores are found together. E. Zhang and Y. Zhang, "Average Precision", Encyclopedia of Database Systems, 2009.

    Args:
        scores: (N,), the highest is found first.
        right: (N,), True at least once.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_equal = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    found = np.cumsum(right[order])[last_of_equal]
    precision = found / (last_of_equal + 1)
    return float((precision * np.diff(found, prepend=0)).sum() / found[-1])
