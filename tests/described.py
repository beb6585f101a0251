"""Descriptions as the stages write them, for tests that make a model or a tokenizer without running a stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EXECUTION = {
    "device": "cpu",
    "precision": "32-true",
    "compile_mode": None,
    "num_threads": 1,
    "torch": "2.0.0",
    "cpu_capability": "DEFAULT",
    "gpu": None,
    "arithmetic": None,
}


def model_description(arguments: Mapping[str, Any], *, seconds: float = 60.0) -> dict[str, Any]:
    """What model.json says besides its version.

    Args:
        arguments: of the model's class.
        seconds: how long training took.
    """
    training = {"run_id": "00000000-0000-4000-8000-000000000000", "seconds": seconds, "steps": 10, "tokens": 1000}
    return {
        "model_name": "tiny",
        "task_type": "lm",
        "model": {"model_type": "llama", **arguments},
        **({} if "image_size" in arguments else {"bos_id": 1, "eos_id": 2, "pad_id": 3}),
        "training": {**training, "best_step": None, "val_loss": None, **EXECUTION},
    }


def tokenizer_description(vocab_size: int) -> dict[str, Any]:
    """What tokenizer.json says of a tokenizer that has encoded nothing yet."""
    empty = {"documents": 0, "tokens": 0, "characters": 0, "bytes": 0}
    return {
        "format_version": 1,
        "kind": "tokens",
        "tokenizer_type": "bpe",
        "vocab_size": vocab_size,
        "unk_id": 0,
        "bos_id": 1,
        "eos_id": 2,
        "pad_id": 3,
        "special_tokens": {"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3},
        "dtype": "uint16",
        "splits": {split: dict(empty) for split in ("train", "validation", "test")},
    }


# What the train stage adds to the state of every checkpoint, and to its metadata.
RUN_STATE = {
    "run_id": "00000000-0000-4000-8000-000000000000",
    "start_timestamp": "2026-01-01T00:00:00+00:00",
    "fingerprint": 64 * "0",
    "execution": EXECUTION,
}
RUN_METADATA = {
    "experiment": "tiny",
    "run_id": "00000000-0000-4000-8000-000000000000",
    "spec_hash": 64 * "0",
    "tokenizer": None,
    "git": None,
    "parameters": 100,
    "tokens_per_step": 64,
    "effective_batch": 8,
}


def checkpoint_metadata(step: int, **changes: Any) -> dict[str, Any]:
    """What metadata.json of a checkpoint says besides its versions."""
    moment = {
        "step": step,
        "total_steps": 100,
        "epoch": 0,
        "finished": False,
        "scheduled": False,
        "timestamp": "2026-01-01T00:00:00+00:00",
        "tokens": 64 * step,
        "metrics": {},
        "seconds": 1.0,
    }
    return {**RUN_METADATA, **moment, **changes}
