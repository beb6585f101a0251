"""Which export format can carry which model: a row for each format that cannot carry all of them.

A format of PyTorch or a plain ONNX graph holds whatever a model computes. The others have a place for certain parts
only; what has none would be left out in silence, and is refused instead, before anything is trained.

`model.separate_documents` needs no place: it is about several documents in one text, and what an export reads is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

WRITES_TEXT = ("lm", "seq2seq")  # tasks


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides whether a format can carry a model; the names are those of the spec."""

    task_type: str
    model_type: str
    num_heads: int
    num_kv_heads: int | None
    activation: str
    qk_norm: bool
    short_conv: int | None
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
            "num_heads": 1, "num_kv_heads": None, "activation": "auto", "qk_norm": False, "short_conv": None,
        }  # fmt: skip
        found = {**absent, **arguments, "task_type": task_type, "tokenizer_type": tokenizer_type}
        return cls(**{field.name: found[field.name] for field in fields(cls)})


SHAPE_READS = (
    "task.task_type", "model.model_type", "model.num_heads", "model.num_kv_heads", "model.activation",
    "model.qk_norm", "model.short_conv", "tokenizer.tokenizer_type",
)  # fmt: skip

Refusal = tuple[str, str]  # what the format has no place for, and what to do


def _with_cache(shape: Shape) -> Refusal | None:
    """Keys and values of a model that writes one token after the other."""
    if shape.task_type not in WRITES_TEXT:
        return f"task_type {shape.task_type} does not write text, which the cache is for", "take onnx"
    return None


def _in_transformers(shape: Shape) -> Refusal | None:
    """Llama, Qwen3 (normalized queries and keys), Arcee (no gate) and GPT-2, as transformers has them."""
    gate = shape.activation in ("auto", "swiglu")
    grouped = shape.num_kv_heads not in (None, shape.num_heads)
    return _first(
        (shape.task_type not in WRITES_TEXT, f"its classes write text, task_type {shape.task_type} does not", _TAKE),
        (shape.tokenizer_type == "word", "its tokenizers cannot cut words as tokenizer_type word does", _TYPE),
        (shape.short_conv is not None, "its classes have no short convolutions", _NO_CONV),
        (
            shape.model_type == "llama" and shape.qk_norm and not gate,
            f"it has no class with model.qk_norm and activation {shape.activation}",
            "set model.activation to swiglu, or model.qk_norm to false",
        ),
        (
            shape.model_type == "gpt" and (shape.qk_norm or grouped or shape.activation == "swiglu"),
            "GPT-2 has neither grouped nor normalized keys, nor a gate",
            "set model.model_type to llama, or model.qk_norm, num_kv_heads and activation to their defaults",
        ),
    )


def _in_llama_cpp(shape: Shape) -> Refusal | None:
    """Llama and Qwen3, as llama.cpp has them."""
    gate = shape.activation in ("auto", "swiglu")
    return _first(
        (shape.task_type not in WRITES_TEXT, f"it is for text, task_type {shape.task_type} writes none", _TAKE),
        (shape.tokenizer_type not in ("unigram", "bpe"), f"it has no tokenizer {shape.tokenizer_type}", _TYPE),
        (shape.short_conv is not None, "Llama and Qwen3 have no short convolutions", _NO_CONV),
        (
            shape.model_type != "llama" or not gate,
            "it is written in the shapes of Llama and Qwen3, which have a gate",
            "set model.model_type to llama and model.activation to swiglu",
        ),
    )


_TAKE = "take onnx"
_NO_CONV = "set model.short_conv to null"
_TYPE = "set tokenizer.tokenizer_type to unigram or bpe"


def _first(*rows: tuple[bool, str, str]) -> Refusal | None:
    """The first of (whether it holds, what it means, what to do) that holds."""
    return next(((reason, hint) for holds, reason, hint in rows if holds), None)


CARRIES: Mapping[str, Callable[[Shape], Refusal | None]] = {
    "onnx_cache": _with_cache,
    "hf": _in_transformers,
    "gguf": _in_llama_cpp,
}


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


def int8_is_told_how(quantization: str | None, formats: list[str], task_type: str) -> Refusal | None:
    """The rule of a spec: `int8` needs a way to find the range of activations, and one that the model has."""
    if "int8" not in formats:
        return None
    if quantization is None:
        return "format int8 needs export.quantization", "set it to dynamic, or take int8 out of export.formats"
    if quantization == "static" and task_type not in WRITES_TEXT:
        return (
            f"static ranges are measured on text that the model writes, and task_type {task_type} writes none",
            "set export.quantization to dynamic",
        )
    return None
