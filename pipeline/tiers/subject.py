"""What the checks of the tiers look at, and what they find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from pipeline.data.encoded import EncodedSplit, read_encoded
from pipeline.evaluation.validation import require_same_tokenizer
from pipeline.export.compare import random_inputs
from pipeline.files import verify_manifest
from pipeline.models.bert import Bert
from pipeline.models.cnn import Cnn
from pipeline.models.model import Model
from pipeline.models.store import load_model
from pipeline.models.text_classifier import TextClassifier
from pipeline.models.transformer import DOCUMENT_START, Transformer
from pipeline.tasks.table import TASKS
from pipeline.tasks.task import Task

Status = Literal["passed", "warning", "failed", "not_judged"]
_CLOSE = 1e-4  # of the largest logit: what the order of additions may change, a hundred times over


@dataclass(frozen=True)
class Outcome:
    """What a check found.

    Attributes:
        status: how it ended; `not_judged` is no pass.
        measured: what was found, in words.
        limit: what passes, in words; empty where nothing was judged.
        details: the figures.
        figures: what a picture is drawn of, too much for a report.
    """

    status: Status
    measured: str
    limit: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)


class Subject:
    """A trained model, and all that the checks of one run need beside it.

    Args:
        model: in evaluation mode, on the CPU.
        description: its model.json.
        task: what it was trained for.
        settings: a document of kind `tiers`, complete.
        folder: where the model came from.
        data: the output folder of the tokenizer stage that the model was trained on; None: it is not at hand.
        exports: an export of the model; None: there is none.
    """

    def __init__(
        self,
        *,
        model: Model,
        description: Mapping[str, Any],
        task: Task,
        settings: Mapping[str, Any],
        folder: Path,
        data: Path | None = None,
        exports: Path | None = None,
    ) -> None:
        self.folder = folder
        self.model, self.description, self.task = model, description, task
        self.settings, self.data, self.exports = settings, data, exports

    @classmethod
    def open(cls, folder: Path, *, settings: Mapping[str, Any], data: Path | None, exports: Path | None) -> Self:
        """The model of a folder. Arguments as for the class.

        Raises:
            ArtifactError: the model or the data is missing or damaged, or they do not belong together.
        """
        model, description = load_model(folder)
        if data is not None:
            verify_manifest(data, rebuild="foundry run --from tokenizer --force")
            require_same_tokenizer(folder, data)
        task = TASKS[description["task_type"]].task(folder, description["model"], description)
        return cls(
            model=model,
            description=description,
            task=task,
            settings=settings,
            folder=folder,
            data=data,
            exports=exports,
        )

    # What the model is

    @property
    def task_type(self) -> str:
        """`task.task_type` of the spec."""
        found: str = self.description["task_type"]
        return found

    @property
    def attending(self) -> Transformer | Bert | None:
        """The part of the model that attends to tokens: all of it, or the body of a classifier; None: no part does."""
        model = self.model.body if isinstance(self.model, TextClassifier) else self.model
        return model if isinstance(model, Transformer | Bert) else None

    def length(self, most: int) -> int:
        """So many tokens, or as many as the model can take; of a picture 1."""
        return 1 if isinstance(self.model, Cnn) else min(most, self.model.max_seq_len)

    # What it is given

    def inputs(self, batch: int, length: int) -> Tensor:
        """(B, T) token ids or (B, C, H, W) pictures, the same for the same shape: every id or shade is as likely."""
        return torch.from_numpy(random_inputs(self.model, batch, length))

    def tokens(self, batch: int, length: int, *, seed: int = 0) -> Tensor:
        """(B, T) random ids of text: none of them begins or ends a document, fills up or stands for another."""
        drawn = np.random.default_rng([batch, length, seed]).integers(len(self.plain), size=(batch, length))
        return torch.from_numpy(self.plain[drawn])

    def others(self, ids: Tensor) -> Tensor:
        """Another id of text for each id of text."""
        places = np.searchsorted(self.plain, ids.numpy())
        return torch.from_numpy(self.plain[(places + 1) % len(self.plain)])

    @cached_property
    def plain(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(N,) the ids that stand for text, ascending."""
        names = ("bos_id", "eos_id", "pad_id")
        control = {0, DOCUMENT_START, *(self.description[name] for name in names)}  # 0: unknown, in every tokenizer
        return np.array([token for token in range(self.model.vocab_size) if token not in control], np.int64)

    def rows(self, count: int, most: int) -> Tensor:
        """Held-out inputs where data is at hand, else random ones: (N, T) ids, T at most `most`, or pictures."""
        length, split = self.length(most), self.heldout
        if split is None or not split.documents:
            return self.inputs(count, length) if isinstance(self.model, Cnn) else self.tokens(count, length)
        if isinstance(self.model, Cnn):
            return torch.from_numpy(np.array(split.pictures[:count]))
        length = min(length, len(split.tokens))
        starts = np.linspace(0, len(split.tokens) - length, count).round().astype(int)
        return torch.from_numpy(np.stack([split.tokens[start : start + length] for start in starts]).astype(np.int64))

    # What it was trained on

    def split(self, name: str) -> EncodedSplit:
        """A split of the data, which is at hand."""
        assert self.data is not None
        return read_encoded(self.data, name)

    @cached_property
    def heldout(self) -> EncodedSplit | None:
        """The validation split; None where the data is not at hand."""
        return None if self.data is None else self.split("validation")

    @cached_property
    def train(self) -> EncodedSplit | None:
        """The training split; None where the data is not at hand."""
        return None if self.data is None else self.split("train")

    @property
    def classes(self) -> int:
        """How many classes there are to choose from."""
        return int(self.model.logits_shape(1, 1)[-1])


def logits(model: torch.nn.Module, *inputs: Tensor) -> Tensor:
    """The logits of some inputs, without keeping anything for a backward pass."""
    with torch.inference_mode():
        found: Tensor = model(*inputs)
    return found


def far_apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of two tensors, as a fraction of the largest value or of 1; NaN where one has a NaN."""
    return float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1))


def is_close(difference: float) -> bool:
    """Whether a difference is one that the order of additions can make; NaN is not."""
    return difference <= _CLOSE
