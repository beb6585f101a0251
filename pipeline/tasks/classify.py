"""Classification of texts: choose one class for a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.batches import IGNORED
from pipeline.data.document_batches import DocumentBatches, LabelledTexts
from pipeline.data.encoded import EncodedSplit, read_metadata
from pipeline.data.tokenizer import Tokenizer
from pipeline.tasks.task import Answers, Evaluation, Sample, likeliest
from pipeline.tasks.vision_classification import classification_metrics

_ROWS = 32  # scored at once; it changes memory and speed, not the scores


class TextClassification(Answers):
    """Choose one class for a text.

    Args:
        tokenizer: that encoded the texts.
        classes: names of the classes, in the order of their numbers.
        max_seq_len: T; longer texts are cut off at the end.
    """

    def __init__(self, *, tokenizer: Tokenizer, classes: Sequence[str], max_seq_len: int) -> None:
        self._tokenizer, self._length = tokenizer, max_seq_len
        self.classes = tuple(classes)

    @classmethod
    def open(cls, folder: Path, arguments: Mapping[str, Any]) -> Self:
        """The task of an encoded corpus or a model folder. See `table.TaskType`."""
        tokenizer = Tokenizer.load(folder / "tokenizer.model")
        classes = read_metadata(folder)["classes"]
        return cls(tokenizer=tokenizer, classes=classes, max_seq_len=arguments["max_seq_len"])

    def batches(self, split: EncodedSplit, *, batch_size: int, seed: int) -> DocumentBatches:
        """(B, T) ids and (B,) classes. See `Task`."""
        return DocumentBatches(self._rows(split), batch_size=batch_size, seed=seed)

    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """Cross-entropy of the classes, summed over the texts. See `Task`."""
        ids, labels = batch
        return functional.cross_entropy(model(ids), labels, ignore_index=IGNORED, reduction="sum")

    def evaluate(self, model: nn.Module, split: EncodedSplit) -> Evaluation:
        """The loss, and the metrics of `classification_metrics`. See `Task`."""
        rows = self._rows(split)
        logits = []
        device = next(model.parameters()).device
        with torch.inference_mode():
            for first in range(0, len(rows), _ROWS):
                ids = np.stack([rows.row(index)[0] for index in range(first, min(first + _ROWS, len(rows)))])
                logits.append(model(torch.from_numpy(ids).to(device)).cpu())
        scores, labels = torch.cat(logits), torch.from_numpy(np.array(split.labels))
        nats = functional.cross_entropy(scores, labels, reduction="sum").item()
        return Evaluation(nats, len(rows), classification_metrics(scores.numpy(), split.labels))

    def answer(self, model: nn.Module, prompt: str) -> Sample:
        """The likeliest class of a text, and how likely it is. See `Answers`."""
        return likeliest(prompt, self.probabilities(model, prompt))

    def probabilities(self, model: nn.Module, text: str) -> dict[str, float]:
        """How likely each class is for a text, in the order of the classes; the model is in evaluation mode."""
        ids = self.encode(text).to(next(model.parameters()).device)
        with torch.inference_mode():
            shares = model(ids)[0].softmax(-1).tolist()
        return dict(zip(self.classes, shares, strict=True))

    def encode(self, text: str) -> Tensor:
        """A text as the model takes it: (1, T) ids."""
        ids = [self._tokenizer.bos_id, *self._tokenizer.encode(text), self._tokenizer.eos_id]
        return torch.tensor([ids[: self._length]])

    def _rows(self, split: EncodedSplit) -> LabelledTexts:
        return LabelledTexts(split, length=self._length, pad_id=self._tokenizer.pad_id)
