"""Which export format can carry which model: a row for each format that cannot carry all of them.

A format of PyTorch or a plain ONNX graph holds whatever a model computes. The others have a place for certain parts
only; what has none would be left out in silence, and is refused instead, before anything is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

WRITES_TEXT = ("lm", "seq2seq")  # tasks
_SHORTEST_CACHED = 4  # tokens: two of the past and two new ones, as fewer are constants for the exporter


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides whether a format can carry a model; the names are those of the spec."""

    task_type: str
    model_type: str
    num_heads: int
    num_kv_heads: int | None
    max_seq_len: int
    activation: str
    qk_norm: bool
    separate_documents: bool
    tokenizer_type: str

    @classmethod
    def of(cls, task_type: str, tokenizer_type: str, arguments: Mapping[str, Any]) -> Shape:
        """The shape of a trained model, from what its folder says of it.

        Args:
            task_type: of its model.json.
            tokenizer_type: of its tokenizer.json; empty where it takes pictures.
            arguments: of its class; what a class does not take is as if it were not asked for.
        """
        absent: dict[str, Any] = {
            "num_heads": 1, "num_kv_heads": None, "max_seq_len": 0, "activation": "auto", "qk_norm": False,
            "separate_documents": False,
        }  # fmt: skip
        found = {**absent, **arguments, "task_type": task_type, "tokenizer_type": tokenizer_type}
        return cls(**{field.name: found[field.name] for field in fields(cls)})


SHAPE_READS = (
    "task.task_type", "model.model_type", "model.num_heads", "model.num_kv_heads", "model.max_seq_len",
    "model.activation", "model.qk_norm", "model.separate_documents", "tokenizer.tokenizer_type",
)  # fmt: skip

Refusal = tuple[str, str]  # what the format has no place for, and what to do


def _with_cache(shape: Shape) -> Refusal | None:
    """Keys and values of one document, from a model that writes one token after the other."""
    if shape.task_type not in WRITES_TEXT:
        return f"task_type {shape.task_type} does not write text, which the cache is for", "take onnx"
    if shape.separate_documents:
        return "its cache is of one document, and model.separate_documents keeps several apart", "take onnx"
    if shape.max_seq_len < _SHORTEST_CACHED:
        return f"max_seq_len {shape.max_seq_len} is too short", f"set model.max_seq_len to {_SHORTEST_CACHED} or more"
    return None


CARRIES: Mapping[str, Callable[[Shape], Refusal | None]] = {"onnx_cache": _with_cache}


def refusal(name: str, shape: Shape) -> Refusal | None:
    """Why a format cannot carry a model and what to do, or None where it can.

    Args:
        name: of the format.
        shape: of the model.
    """
    return CARRIES[name](shape) if name in CARRIES else None


def formats_carry_the_model(formats: list[str], *shape: Any) -> Refusal | None:
    """The rule of a spec: every format that it lists can carry its model. The values are those of `SHAPE_READS`."""
    refused = {name: found for name in formats if (found := refusal(name, Shape(*shape)))}
    if not refused:
        return None
    message = "; ".join(f"{name} cannot carry this model: {reason}" for name, (reason, _) in refused.items())
    hints = "; ".join(dict.fromkeys(hint for _, hint in refused.values()))
    return message, f"{hints}, or take {' and '.join(refused)} out of export.formats"
