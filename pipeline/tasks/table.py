"""The tasks there are: `task.task_type` of a spec → how it is built. Adding a task is a file and a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.tasks.classify import TextClassification
from pipeline.tasks.language_model import LanguageModel
from pipeline.tasks.masked_lm import MaskedLanguageModel
from pipeline.tasks.seq2seq import PrefixTask
from pipeline.tasks.task import Task
from pipeline.tasks.vision_classification import VisionClassification
from pipeline.tasks.vision_multilabel import VisionMultilabel


@dataclass(frozen=True)
class TaskType:
    """A row.

    Attributes:
        open: (folder with tokenizer.json and tokenizer.model, arguments of the model's class, `settings`) → the task.
        sizes: tokenizer.json → the arguments of the model's class that follow from the encoded corpus.
        target: what is predicted, of which the loss is a mean.
        settings: what it takes of the section `task`; model.json keeps them.
    """

    open: Callable[..., Task]
    sizes: Callable[[Mapping[str, Any]], dict[str, Any]]
    target: str = "token"
    settings: tuple[str, ...] = ()

    def task(self, folder: Path, arguments: Mapping[str, Any], settings: Mapping[str, Any]) -> Task:
        """The task of an encoded corpus or a model folder.

        Args:
            folder: with tokenizer.json, and tokenizer.model where there are texts.
            arguments: of the model's class.
            settings: the section `task` of a spec, or model.json.
        """
        return self.open(folder, arguments, **self.kept(settings))

    def kept(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What it takes of the section `task`."""
        return {name: settings[name] for name in self.settings}


def _of_text(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {"vocab_size": metadata["vocab_size"]}


def _of_padded_text(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {**_of_text(metadata), "pad_id": metadata["pad_id"]}


def _of_labelled_text(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {**_of_padded_text(metadata), "num_classes": len(metadata["classes"])}


def _of_pictures(metadata: Mapping[str, Any]) -> dict[str, Any]:
    names = ("image_size", "channel_mean", "channel_std")
    return {"num_classes": len(metadata["classes"]), **{name: metadata[name] for name in names}}


TASKS: Mapping[str, TaskType] = {
    "lm": TaskType(LanguageModel.open, _of_text),
    "masked_lm": TaskType(MaskedLanguageModel.open, _of_padded_text, target="hidden token"),
    "seq2seq": TaskType(PrefixTask.open, _of_text),
    "text_classification": TaskType(TextClassification.open, _of_labelled_text, target="text"),
    "vision_classification": TaskType(VisionClassification.open, _of_pictures, target="picture"),
    "vision_multilabel": TaskType(VisionMultilabel.open, _of_pictures, target="label", settings=("label_threshold",)),
}
