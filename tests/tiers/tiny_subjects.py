"""What the tiny models of these tests are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    "vision_multilabel": PICTURES,
}
# Less of what only takes time.
BRIEF = {"memory": {"batch_sizes": [1, 4]}, "output_stability": {"samples": 10}, "speed": {"timed_runs": 3}}


EXPORTED = ["pytorch", "bf16"]
CORPUS = {
    "train": [f"the quick brown fox jumps {number} times over the lazy dog, and then it sleeps" for number in range(9)],
    "validation": ["a lazy dog sleeps over the fox; the quick one jumps, and that is all there is to be said of it"],
    "test": [],
}
