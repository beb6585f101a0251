"""The memory that training and serving a model take, by arithmetic alone. MB are 1,000,000 bytes."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from pipeline.spec.estimate_model import Shape, count, matrices

_FLOAT = 4  # bytes of a weight, a gradient or a moment where training keeps them in float32
_HALF = 2  # the same in bfloat16 or float16
_MB = 1e6
EVALUATION_ROWS = 16  # windows that are scored at once, at most
_SCORED_LOGITS = 16 * 256 * 4096  # that are computed for them at once: 67 MB
CLASSIFIED_ROWS = 32  # texts, where each has a class


@dataclass(frozen=True, slots=True)
class Saved:
    """Bytes that autograd keeps of a forward pass, for each token.

    They follow from the operations of `models.transformer` and `models.bert`.

    Attributes:
        width: of a layer, for each feature of the residual stream.
        inner: of a layer, for each feature of the feed-forward part.
        scores: of a layer, for each head and each position of the sequence.
        norms: of a layer, for the statistics of its norms.
        last_width: of embedding and last norm, for each feature.
        last_norm: of the last norm, for its statistics.
        heads: of a layer, for each feature of its query and key heads.
        head_norms: of a layer, for the statistics of each of those heads.
        guess: of an encoder's head, for each feature of a hidden token.
    """

    width: int = 0
    inner: int = 0
    scores: int = 0
    norms: int = 0
    last_width: int = 0
    last_norm: int = 0
    heads: int = 0
    head_norms: int = 0
    guess: int = 0

    def __add__(self, other: Saved) -> Saved:
        return Saved(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(Saved)})


# A test counts what autograd really keeps and finds exactly this.
_SAVED = {
    ("llama", "32-true"): Saved(width=40, inner=8, scores=4, norms=8, last_width=12, last_norm=4),
    ("gpt", "32-true"): Saved(width=32, inner=8, scores=4, norms=16, last_width=8, last_norm=8),
    ("llama", "bf16-mixed"): Saved(width=32, inner=4, scores=6, norms=8, last_width=10, last_norm=4),
    ("gpt", "bf16-mixed"): Saved(width=24, inner=4, scores=6, norms=16, last_width=6, last_norm=8),
    ("llama", "bf16-true"): Saved(width=28, inner=4, scores=6, norms=8, last_width=10, last_norm=4),
    ("gpt", "bf16-true"): Saved(width=16, inner=4, scores=6, norms=8, last_width=4, last_norm=4),
    ("bert", "32-true"): Saved(width=32, inner=8, scores=4, norms=16, last_width=8, last_norm=8, guess=16),
    ("bert", "bf16-mixed"): Saved(width=24, inner=4, scores=6, norms=16, last_width=8, last_norm=8, guess=8),
    ("bert", "bf16-true"): Saved(width=16, inner=4, scores=6, norms=8, last_width=4, last_norm=4, guess=8),
}
_DROPPED = {  # what dropout adds: its masks, and what they are multiplied with
    "32-true": Saved(width=8, last_width=4),
    "bf16-mixed": Saved(width=4, last_width=4),
    "bf16-true": Saved(width=4, last_width=2),
}
_ATTENTION_DROPPED = {"32-true": Saved(scores=8), "bf16-mixed": Saved(scores=2), "bf16-true": Saved(scores=2)}
_SIZED_AS = {"16-mixed": "bf16-mixed", "16-true": "bf16-true"}  # the two types of 16 bits take the same room
_GATED = {  # what a gate adds
    "32-true": Saved(inner=8),
    "bf16-mixed": Saved(width=2, inner=4),
    "bf16-true": Saved(inner=4),
}
_NORMED = Saved(heads=8, head_norms=4)  # what norms of the heads add, in every precision
_ID = 8  # bytes of a token's id, of a target and of a place


def scored_rows(*, targets: int, choices: int) -> int:
    """Windows that an evaluation scores at once: fewer where their logits would take more than 67 MB.

    Args:
        targets: tokens of a window that are scored.
        choices: logits of each.
    """
    return max(1, min(EVALUATION_ROWS, _SCORED_LOGITS // (targets * choices)))


def number_bytes(precision: str) -> int:
    """Bytes of a weight, of its gradient and of each of its moments while training."""
    return _HALF if precision in ("bf16-true", "16-true") else _FLOAT


def activation_bytes(shape: Shape, *, batch_size: int, precision: str, recompute: bool = False) -> int:
    """Bytes that autograd keeps of one forward pass over a micro-batch on the CPU, until its backward pass.

    Attention is written out there, so its scores are kept; the log-probabilities of the whole vocabulary are too.

    Args:
        shape: of the model.
        batch_size: sequences of the micro-batch.
        precision: of training, other than `auto`.
        recompute: whether only the input of each layer is kept, and the layer computed again when it is needed.
    """
    precision = _SIZED_AS.get(precision, precision)
    kept = _SAVED[shape.model_type, precision]
    of_attention = shape.dropout if shape.attention_dropout is None else shape.attention_dropout
    added = (
        (_DROPPED[precision], shape.dropout > 0),
        (_ATTENTION_DROPPED[precision], of_attention > 0),
        (_GATED[precision], shape.gated),
        (_NORMED, shape.qk_norm),
    )
    for more, when in added:
        kept += more if when else Saved()
    heads = shape.num_heads + shape.num_kv_heads
    of_a_layer = (
        kept.width * shape.d_model
        + kept.inner * shape.d_ff
        + kept.scores * shape.num_heads * shape.max_seq_len
        + kept.norms
        + heads * (kept.heads * shape.d_model // shape.num_heads + kept.head_norms)
    )
    if recompute:
        of_a_layer = number_bytes(precision) * shape.d_model
    of_the_rest = kept.last_width * shape.d_model + kept.last_norm + _ID
    of_a_target = _FLOAT * shape.choices + _ID
    if shape.is_encoder:
        of_a_target += kept.guess * shape.d_model + kept.last_norm + _ID  # the head's own layer and norm, and the place
        of_the_rest += shape.max_seq_len  # which tokens each may see
    if shape.num_classes is not None:  # one vector of a text is multiplied, not the features of each token
        multiplied = _FLOAT if precision == "32-true" else _HALF
        of_the_rest -= multiplied * shape.d_model
        if shape.pooling == "mean":
            of_the_rest += _FLOAT  # which tokens are there
            of_a_target += multiplied * shape.d_model + _FLOAT  # and how many
        else:
            of_the_rest += _FLOAT * shape.d_model  # all features, of which one vector is taken
            of_a_target += multiplied * shape.d_model + _ID  # and where
    of_convolutions = 0  # the features that they read, with zeros before them, and their weights in another order
    if shape.short_conv is not None and not recompute:
        of_a_place = shape.num_layers * number_bytes(precision) * shape.d_model
        of_convolutions = of_a_place * (batch_size * (shape.max_seq_len + shape.short_conv - 1) + shape.short_conv)
    converted = 0
    if precision == "bf16-mixed":  # the matrices, once more in two bytes
        layers = 0 if recompute else shape.num_layers
        head = shape.choices + shape.d_model * shape.is_encoder
        converted = _HALF * (layers * sum(matrices(shape)) + head * shape.d_model)
    of_a_row = shape.max_seq_len * (shape.num_layers * of_a_layer + of_the_rest) + shape.targets * of_a_target
    return batch_size * of_a_row + of_convolutions + converted + _FLOAT


@dataclass(frozen=True, slots=True)
class Growth:
    """How the memory of the train stage's process grows, in bytes for each byte of its causes.

    Attributes:
        process: MB of a process that has loaded torch and is about to train, before there is a model.
        weights: for each of the weights, which have gradients and two moments of the same size beside them.
        kept: for what autograd keeps of a micro-batch.
        logits: for the logits of a micro-batch, whose gradients are made while everything is kept.
        scores: for the attention scores of one layer, in the same way.
        scored_logits: for the logits of an evaluation's batch.
        scored_scores: for the attention scores of one layer of it.
        scored_inner: for the feed-forward features of one layer of it.
        both: training and evaluation use the same memory but leave gaps: the share of the smaller that adds up.
    """

    process: float
    weights: float
    kept: float
    logits: float
    scores: float
    scored_logits: float
    scored_scores: float
    scored_inner: float
    both: float


# Fitted to the peak of real runs of the train stage on two cores (Linux, glibc, torch 2.13, float32). Not compiled: 21
# shapes of 340 to 1,758 MB in runs of four steps, then moved to 11 runs of 12 to 120 steps, which take a little more
# and are each met within 6 %; the same run twice differs by up to 5 %. Compiled: 10 shapes of 462 to 1,317 MB, each
# within 7 %. What goes beyond the bytes that are counted are gaps: the process keeps freed memory, and its pieces do
# not fit the next request.
_EAGER = Growth(350, 5.2, 0.9, 4.4, 8.2, 2.8, 3.5, 1.0, 0.25)
# Encoders and classifiers, which have logits of few tokens or of a text: six shapes of 525 to 1,056 MB in runs of 12 to
# 40 steps, each met within 3 %. There are no freed logits to be used again, so what is kept weighs more.
_FEW_LOGITS = Growth(350, 5.2, 1.45, 0.5, 1.0, 2.8, 3.5, 1.0, 0.25)
_COMPILED = Growth(455, 4.3, 0.79, 0.0, 0.0, 2.9, 0.5, 0.0, 1.0)
LARGEST_MEASURED_MB = 2000
MEASURED_PRECISIONS = ("32-true", "bf16-mixed")
# Fitted to ten models of 0.6 to 117 MB, decoders and encoders, in the process that the validate stage measures (Linux,
# ONNX Runtime 1.31): each met within 7 %.
_SERVING_MB = 62.7  # a process that has loaded ONNX Runtime and a tokenizer
_SERVED_LAYERS, _SERVED_TOKENS = (
    1.3,
    3.2,
)  # MB for each of the layers, and of the embedding, whose transpose is kept too
_ANSWERING_MB = {"decoder": 7.0, "encoder": 1.0}  # on the way; the first passes of a decoder read the whole prompt


def training_memory(
    shape: Shape, *, batch_size: int, precision: str, compiled: bool, recompute: bool = False, moments: float = 2.0
) -> dict[str, float]:
    """Peak resident memory of the train stage on the CPU, and what it consists of, in MB.

    Args:
        shape: of the model.
        batch_size: sequences of a micro-batch.
        precision: of training, other than `auto`.
        compiled: whether the model is.
        recompute: whether layers are computed again in the backward pass; one of them is then kept at a time.
        moments: numbers that the optimizer keeps for each weight, from `moments_per_weight`.

    Returns:
        `process`, `weights`, `gradients`, `optimizer` and `activations`, `working` for all that is made and freed
        on the way, and their sum `peak_rss`.
    """
    growth = _COMPILED if compiled else _EAGER if shape.targets == shape.max_seq_len else _FEW_LOGITS
    weights = number_bytes(precision) * count(shape) / _MB
    kept = activation_bytes(shape, batch_size=batch_size, precision=precision, recompute=recompute) / _MB
    if recompute:
        one, none = (
            activation_bytes(replace(shape, num_layers=layers), batch_size=batch_size, precision=precision) / _MB
            for layers in (1, 0)
        )
        kept += one - none
    square = shape.num_heads * shape.max_seq_len**2

    def sizes(rows: int) -> tuple[float, float, float]:
        return (
            rows * shape.targets * shape.choices * _FLOAT / _MB,
            rows * square * _FLOAT / _MB,
            rows * shape.max_seq_len * shape.d_ff * _FLOAT / _MB,
        )

    logits, scores, _ = sizes(batch_size)
    training = growth.kept * kept + growth.logits * logits + growth.scores * scores
    classifies = shape.num_classes is not None
    logits, scores, inner = sizes(
        CLASSIFIED_ROWS if classifies else scored_rows(targets=shape.targets, choices=shape.choices)
    )
    scoring = growth.scored_logits * logits + growth.scored_scores * scores + growth.scored_inner * inner
    busy = max(training, scoring) + growth.both * min(training, scoring)
    mask = _mask_mb(shape)
    parts = {
        "process": growth.process,
        "weights": weights,
        "gradients": weights,
        "optimizer": moments * weights,
        "activations": kept,
        "working": busy - kept + (growth.weights - 4) * weights + 2 * mask,  # the mask is made from another one
    }
    return parts | {"peak_rss": sum(parts.values())}


def inference_memory(shape: Shape) -> dict[str, float]:
    """Resident memory of a clean process with the model open to serve it, and its peak while it answers, in MB."""
    tokens = _FLOAT * shape.vocab_size * shape.d_model / _MB
    has_head = not shape.tie_embeddings and shape.num_classes is None
    layers = _FLOAT * count(shape) / _MB - tokens * (2 if has_head else 1)
    rest = _SERVING_MB + _SERVED_LAYERS * layers + _SERVED_TOKENS * tokens
    return {"rss": rest, "peak": rest + _ANSWERING_MB["encoder" if shape.is_encoder else "decoder"]}


def _mask_mb(shape: Shape) -> float:
    """The table of what a decoder's tokens may see; an encoder has none."""
    return 0.0 if shape.is_encoder else _FLOAT * shape.max_seq_len**2 / _MB
