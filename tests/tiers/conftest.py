"""Tiny models of every kind, sound and with one fault each, as the checks of the tiers see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from described import model_description

from pipeline.data.tokenizer import Tokenizer, train_tokenizer
from pipeline.models.model import Model
from pipeline.models.table import build_model
from pipeline.tasks.classify import TextClassification
from pipeline.tasks.language_model import LanguageModel
from pipeline.tasks.masked_lm import MaskedLanguageModel
from pipeline.tasks.seq2seq import PrefixTask
from pipeline.tasks.task import Task
from pipeline.tasks.vision_classification import VisionClassification
from pipeline.tiers.run import examine, tier_settings
from pipeline.tiers.subject import Subject

TEXT = "the quick brown fox jumps over the lazy dog, and then it sleeps.\n" * 20
SHAPE = {"vocab_size": 64, "d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 48, "max_seq_len": 24}
ENCODER = {"model_type": "bert", "pad_id": 3}
PICTURES = {
    "model_type": "cnn",
    "image_size": [1, 8, 8],
    "num_classes": 3,
    "channel_mean": [0.5],
    "channel_std": [0.3],
    "stage_channels": [8, 16],
    "blocks_per_stage": 1,
    "norm_groups": 2,
}
CLASSES = ["a", "b", "c"]
# task_type → arguments of the model's class.
MODELS: Mapping[str, dict[str, Any]] = {
    "lm": {**SHAPE, "model_type": "llama"},
    "seq2seq": {**SHAPE, "model_type": "gpt"},
    "masked_lm": {**SHAPE, **ENCODER, "separate_documents": True},
    "text_classification": {**SHAPE, "model_type": "llama", "num_classes": 3, "pad_id": 3},
    "vision_classification": PICTURES,
}
# Less of what only takes time.
BRIEF = {"memory": {"batch_sizes": [1, 4]}, "output_stability": {"samples": 10}, "speed": {"timed_runs": 3}}


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer(
        train_tokenizer([TEXT], tokenizer_type="bpe", vocab_size=64, byte_fallback=False, special_tokens=["<mask>"])
    )


@pytest.fixture(scope="session")
def subject_of(tokenizer: Tokenizer) -> Callable[..., Subject]:
    """(task_type, of=class, change=what is done to the model, task=, settings=, **arguments) → a subject."""
    tasks: dict[str, Callable[[int], Task]] = {
        "lm": lambda length: LanguageModel(tokenizer=tokenizer, max_seq_len=length),
        "seq2seq": lambda length: PrefixTask(tokenizer=tokenizer, max_seq_len=length),
        "masked_lm": lambda length: MaskedLanguageModel(tokenizer=tokenizer, max_seq_len=length),
        "text_classification": lambda length: TextClassification(
            tokenizer=tokenizer, classes=CLASSES, max_seq_len=length
        ),
        "vision_classification": lambda _: VisionClassification(
            classes=CLASSES, image_size=PICTURES["image_size"], fit="crop"
        ),
    }

    def make(
        task_type: str = "lm",
        *,
        of: Callable[..., Model] | None = None,
        change: Callable[[Any], None] | None = None,
        task: Task | None = None,
        settings: Mapping[str, Any] | None = None,
        data: Path | None = None,
        **arguments: Any,
    ) -> Subject:
        torch.manual_seed(0)
        whole = {**MODELS[task_type], **arguments}
        model = (build_model(whole) if of is None else of(**whole)).eval()
        if change is not None:
            with torch.no_grad():
                change(model)
        return Subject(
            model=model,
            description={**model_description(whole), "task_type": task_type},
            task=task or tasks[task_type](whole.get("max_seq_len", 1)),
            settings=tier_settings({**BRIEF, **(settings or {})}),
            folder=Path("nowhere"),
            data=data,
        )

    return make


@pytest.fixture(scope="session")
def found_by() -> Callable[..., dict[str, Any]]:
    """(subject, *tiers) → what each check found, by its name."""

    def run(subject: Subject, *tiers: int) -> dict[str, Any]:
        return {result.check.name: result for result in examine(subject, tiers)}

    return run
