"""What a model is by arithmetic alone: its shape, its parameters, their bytes, and the operations of a token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

Settings = Mapping[str, Any]  # the sections of a resolved experiment, as `Spec.to_dict` gives them

_FLOAT = 4  # bytes of a weight
_HEADER = 100  # bytes that a safetensors file spends on the name, shape and place of one tensor
MASKED_SHARE = 0.15  # of the tokens of a sequence; a test holds it to that of models.bert
_ENCODER = "bert"
MUON_ITERATIONS: Mapping[str, int] = {"newton_schulz": 5, "polar_express": 4}  # a test holds them to training.optimizer
# Settings of the decoders that the encoder has no say in.
_OF_THE_ENCODER: Mapping[str, Any] = {
    "num_kv_heads": None, "qk_norm": False, "activation": "gelu", "short_conv": None,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model's size follows from; the names are those of the spec."""

    vocab_size: int
    d_model: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    d_ff: int
    max_seq_len: int
    model_type: str
    tie_embeddings: bool
    dropout: float
    qk_norm: bool = False
    activation: str = "auto"
    attention_dropout: float | None = None
    short_conv: int | None = None
    num_classes: int | None = None  # of a classifier of texts, which has these outputs instead of tokens
    pooling: str = "mean"  # how such a classifier makes one vector of a text

    @property
    def gated(self) -> bool:
        """Whether the feed-forward part has a third matrix, the gate."""
        return self.activation == "swiglu" or (self.activation == "auto" and self.model_type == "llama")

    @property
    def is_encoder(self) -> bool:
        """Whether it guesses hidden tokens instead of the next one."""
        return self.model_type == _ENCODER

    @property
    def targets(self) -> int:
        """What training asks for of a full sequence: each token of a decoder, hidden ones of an encoder, one class."""
        if self.num_classes is not None:
            return 1
        return max(1, round(MASKED_SHARE * self.max_seq_len)) if self.is_encoder else self.max_seq_len

    @property
    def choices(self) -> int:
        """Logits of each target: pieces of the vocabulary, or classes."""
        return self.vocab_size if self.num_classes is None else self.num_classes

    @property
    def tensors(self) -> int:
        """How many weight tensors the model has."""
        projections, norms = 7 if self.gated else 6, 2
        of_the_rest = 2  # embeddings, the last norm
        if self.is_encoder:  # all have biases: two embeddings, their norm, the head's layer, norm and bias
            return self.num_layers * 2 * (projections + norms) + 9 + (not self.tie_embeddings)
        if self.model_type == "gpt":  # biases make two of each projection and norm; positions are embedded
            projections, norms, of_the_rest = 2 * projections, 2 * norms, 4
        of_a_layer = projections + norms + 2 * self.qk_norm + (self.short_conv is not None)
        of_the_head = int(not self.tie_embeddings) if self.num_classes is None else 2
        return self.num_layers * of_a_layer + of_the_rest + of_the_head


def shape_of(model: Mapping[str, Any], vocab_size: int, num_classes: int | None = None) -> Shape:
    """The shape that the `model` section of a spec describes.

    Args:
        model: the section, or the arguments of a model's class, of which only a classifier has `pooling`.
        vocab_size: pieces of the tokenizer.
        num_classes: of a classifier of texts.
    """
    later = ("attention_dropout", "short_conv")  # unknown to models trained before there were such settings
    known = ("vocab_size", "num_kv_heads", "num_classes", "pooling", *later)
    names = tuple(field.name for field in fields(Shape) if field.name not in known)
    if model["model_type"] == _ENCODER:
        model = {**model, **_OF_THE_ENCODER}
    heads = model["num_kv_heads"] or model["num_heads"]
    given = {name: model[name] for name in names}
    given["pooling"] = model.get("pooling", "mean")
    given |= {name: model.get(name) for name in later}
    return Shape(vocab_size=vocab_size, num_kv_heads=heads, num_classes=num_classes, **given)


def matrices(shape: Shape) -> tuple[int, int]:
    """Weights in the matrices of one block: of its attention and of its feed-forward part."""
    keys = shape.d_model // shape.num_heads * shape.num_kv_heads
    attention = 2 * shape.d_model * shape.d_model + 2 * shape.d_model * keys  # queries and output, keys and values
    return attention, (2 + shape.gated) * shape.d_model * shape.d_ff


def parameters(shape: Shape) -> dict[str, int]:
    """The exact number of weights of each part; their sum is the model's parameter count."""
    width, inner, layers = shape.d_model, shape.d_ff, shape.num_layers
    keys = width // shape.num_heads * shape.num_kv_heads  # features of all key heads together
    biased = shape.model_type in ("gpt", _ENCODER)
    attention, feed_forward = matrices(shape)
    attention += 2 * (width // shape.num_heads) if shape.qk_norm else 0
    biases = (2 * width + 2 * keys, inner * (1 + shape.gated) + width) if biased else (0, 0)
    norms, head = 2 * layers + 1, 0 if shape.tie_embeddings else shape.vocab_size * width
    if shape.is_encoder:  # a layer, a norm and a bias of the head's own
        norms, head = norms + 1, head + width * width + width + shape.vocab_size
    if shape.num_classes is not None:
        head = (width + 1) * shape.num_classes
    return {
        "embeddings": shape.vocab_size * width,
        "positions": shape.max_seq_len * width if biased else 0,
        "attention": layers * (attention + biases[0]),
        "feed_forward": layers * (feed_forward + biases[1]),
        "convolutions": layers * width * (shape.short_conv or 0),
        "norms": norms * width * (2 if biased else 1),
        "head": head,
    }


def count(shape: Shape) -> int:
    """The number of weights of a model; tied embeddings count once."""
    return sum(parameters(shape).values())


def flops_per_token(shape: Shape) -> float:
    """Floating-point operations that training spends on one token: forward and backward, nothing recomputed.

    Chowdhery et al., PaLM, arXiv:2204.02311, appendix B: 6 for each weight of a matrix product and
    12 · layers · D · T for attention. What is looked up takes none. The head of an encoder works on hidden tokens only.
    """
    attention_scores = 12.0 * shape.num_layers * shape.d_model * shape.max_seq_len
    if shape.is_encoder:
        head = shape.d_model * (shape.d_model + shape.vocab_size) * shape.targets / shape.max_seq_len
        return 6.0 * (shape.num_layers * sum(matrices(shape)) + head) + attention_scores
    parts = parameters(shape)
    looked_up = parts["positions"] + (0 if shape.tie_embeddings else parts["embeddings"])
    if shape.num_classes is not None:  # the classes are chosen once for a whole text
        looked_up = parts["positions"] + parts["embeddings"] + parts["head"]
    return 6.0 * (count(shape) - looked_up) + attention_scores


def orthogonalization_flops(shape: Shape, *, iterations: int, in_float32: bool = True) -> float:
    """Operations that Muon spends on one step: some iterations of three products for each matrix of the blocks.

    Jordan et al., Muon, 2024: with the sides m ≤ n of a matrix, each iteration takes 4m²n + 2m³. In float32 a matrix
    with n ≥ 2m is multiplied twice in all, 4m²n, and the products of its rows once more in the first iteration and four
    times in each of the others, 2m³ each time.
    """
    keys = shape.d_model // shape.num_heads * shape.num_kv_heads
    sides = 2 * [(shape.d_model, shape.d_model)] + 2 * [(keys, shape.d_model)]
    sides += (2 + shape.gated) * [(min(shape.d_model, shape.d_ff), max(shape.d_model, shape.d_ff))]
    once, again = iterations, 2 * (4 * iterations - 3)
    each = [
        4 * m * m * n + again * m**3 if in_float32 and n >= 2 * m else once * (4 * m * m * n + 2 * m**3)
        for m, n in sides
    ]
    return float(shape.num_layers * sum(each))


def moments_per_weight(shape: Shape, settings: Settings) -> float:
    """How many numbers an optimizer remembers for a weight: AdamW two, Muon one, and a running mean of the weights."""
    muon = settings["optimizer"]["optimizer_name"] == "muon"
    spared = shape.num_layers * sum(matrices(shape)) / count(shape) if muon else 0.0
    return 2.0 - spared + (settings["training"]["ema_decay"] is not None)


def weight_bytes(shape: Shape) -> int:
    """About how many bytes the weights take in a safetensors file."""
    return _FLOAT * count(shape) + _HEADER * shape.tensors
