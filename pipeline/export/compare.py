"""Compares an export with the model it was made from: logits, greedy tokens, latency."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.encoded import EncodedSplit
from pipeline.errors import ExportError
from pipeline.export.opening import Runner
from pipeline.export.source import Inputs, Logits, traced_length
from pipeline.models.cnn import Cnn
from pipeline.models.generate import generate
from pipeline.models.transformer import DOCUMENT_START

if TYPE_CHECKING:
    from pipeline.models.model import Model
    from pipeline.models.transformer import Transformer

BATCHES = (1, 2, 7)
_RELATIVE_EPSILON = 1e-8  # keeps the relative difference of a logit at 0 finite
_HELDOUT_TOKENS = 16_384  # that formats are compared on: a second or two for each
_HELDOUT_INPUTS = 256  # the same of inputs that have a class
_ROUNDS, _RUNS, _WARM_UPS = 5, 10, 5  # 50 timed runs, in turns, so that a busy machine slows both sides


@dataclass(frozen=True)
class Difference:
    """How far an export's logits are from the model's on one shape. NaN where either has a NaN.

    Pictures have no length.
    """

    batch: int
    length: int | None
    max_abs: float
    max_rel: float

    def within(self, limit: float) -> bool:
        """Whether the absolute difference keeps the limit; NaN does not."""
        return self.max_abs <= limit

    def __str__(self) -> str:
        return f"{self.max_abs:.3g} at {shape_name(self.batch, self.length)}"


def shape_name(batch: int, length: int | None) -> str:
    """What people call a shape."""
    return f"batch {batch}" if length is None else f"batch {batch} x length {length}"


def short_name(batch: int, length: int | None) -> str:
    """A shape as a key of a report: `2x13`, of pictures `2`."""
    return f"{batch}" if length is None else f"{batch}x{length}"


def shapes_of(model: Model) -> list[tuple[int, int]]:
    """The batches by lengths that a model's exports are compared on; a picture has the length 1."""
    if isinstance(model, Cnn):
        return [(batch, 1) for batch in BATCHES]
    return comparison_shapes(model.max_seq_len)


def comparison_shapes(max_seq_len: int) -> list[tuple[int, int]]:
    """Batches by lengths: 1, 2, an odd one, the traced one, one longer than that, and the longest."""
    traced = traced_length(max_seq_len)
    odd = min(13, max_seq_len - 1 + max_seq_len % 2)
    longer = min(max_seq_len, 2 * traced + 1)
    lengths = sorted({1, 2, odd, traced, longer, max_seq_len})
    return [(batch, length) for length in lengths for batch in BATCHES]


def random_inputs(model: Model, batch: int, length: int, *, one_document: bool = False) -> Inputs:
    """(B, T) token ids or (B, C, H, W) pictures, the same for the same shape: every id or shade is as likely.

    Args:
        model: which takes them.
        batch: B.
        length: T; a picture has the length 1.
        one_document: take another id where a document would begin after the first token.
    """
    generator = np.random.default_rng((batch, length))
    if isinstance(model, Cnn):
        return generator.integers(0, 256, size=(batch, *model.image_size), dtype=np.uint8)
    ids = generator.integers(0, model.vocab_size, size=(batch, length), dtype=np.int64)
    if one_document:
        ids[:, 1:][ids[:, 1:] == DOCUMENT_START] += 1
    return ids


def differences(model: Model, runner: Runner, *, one_document: bool = False) -> list[Difference]:
    """The difference on every shape of `shapes_of`, on the inputs of `random_inputs`.

    Raises:
        ExportError: the export does not run on a shape, or answers with another shape than the model.
    """
    inputs = (random_inputs(model, *shape, one_document=one_document) for shape in shapes_of(model))
    return [difference(model, runner, ids) for ids in inputs]


def difference(model: Model, runner: Runner, ids: Inputs, *, relative_epsilon: float = _RELATIVE_EPSILON) -> Difference:
    """The difference on some token ids or pictures. Raises as `differences`."""
    batch, shown = len(ids), None if isinstance(model, Cnn) else ids.shape[1]
    with torch.inference_mode():
        ours: Logits = model(torch.from_numpy(ids)).numpy()
    theirs = runner.logits(ids)
    if theirs.shape != ours.shape:
        raise ExportError(
            f"{runner.name} answers {shape_name(batch, shown)} with shape {theirs.shape} instead of {ours.shape}"
        )
    with np.errstate(invalid="ignore"):  # infinity minus infinity is the NaN that we report
        apart = np.abs(theirs - ours)
        relative = apart / (np.abs(ours) + relative_epsilon)
    return Difference(batch, shown, float(apart.max()), float(relative.max()))


def worst(found: list[Difference]) -> Difference:
    """The largest difference; NaN is worse than any number."""
    return max(found, key=lambda one: math.inf if math.isnan(one.max_abs) else one.max_abs)


@dataclass(frozen=True)
class Greedy:
    """Greedy tokens of the model and of an export, and how close the race was where they first part."""

    ours: list[int]
    theirs: list[int]
    gap: float  # difference of the two tokens' logits, by the model, at the first place they part; inf if nowhere

    @property
    def equal(self) -> int:
        """How many tokens are equal before the first that is not."""
        pairs = zip(self.ours, self.theirs, strict=True)
        return next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), len(self.ours))


def continuation(model: Transformer, prompt: list[int], tokens: int) -> list[int]:
    """The likeliest tokens after a prompt by the model itself, with its cache; as many as fit behind the prompt."""
    tokens = min(tokens, model.max_seq_len - len(prompt))
    return list(generate(model, prompt, max_new_tokens=tokens))


def compare_greedy(model: Transformer, runner: Runner, prompt: list[int], ours: list[int]) -> Greedy:
    """Let the export (without a cache) continue a prompt greedily; `ours` is the `continuation` by the model."""
    result = Greedy(ours, runner.greedy(prompt, len(ours)), math.inf)
    if result.equal == len(ours):
        return result
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *ours[: result.equal]]]))[0, -1]
    gap = float(logits[ours[result.equal]] - logits[result.theirs[result.equal]])
    return Greedy(ours, result.theirs, gap)


def compare_given(runner: Runner, prompt: list[int], ours: list[int]) -> list[bool]:
    """Whether the export's likeliest token is that of the model, for each token that the model wrote after a prompt.

    The export reads what the model wrote, so that one other choice does not make all that follow incomparable.
    """
    read = np.array([[*prompt, *ours[:-1]]], dtype=np.int64)
    theirs = runner.logits(read)[0, len(prompt) - 1 :].argmax(axis=-1)
    return [bool(mine == its) for mine, its in zip(ours, theirs.tolist(), strict=True)]


def heldout_rows(split: EncodedSplit, max_seq_len: int, *, one_document: bool = False) -> Inputs:
    """(B, T + 1) ids of a split of text: windows without overlap, spread evenly over it, or all of a short one.

    With `one_document`, each is the beginning of a document that is at least as long as half of all are.
    """
    tokens = np.asarray(split.tokens)
    length = min(max_seq_len + 1, len(tokens))
    starts = np.arange(0, len(tokens) - length + 1, length - 1)
    if one_document:
        begins = np.flatnonzero(tokens == DOCUMENT_START)
        lengths = np.diff(begins, append=len(tokens))
        length = min(length, int(np.quantile(lengths, 0.5, method="higher")))
        starts = begins[lengths >= length]
    most = max(1, _HELDOUT_TOKENS // (length - 1))
    if len(starts) > most:
        starts = starts[np.linspace(0, len(starts) - 1, most).round().astype(int)]
    return np.stack([split.tokens[start : start + length] for start in starts]).astype(np.int64)


def same_classes(model: Model, runner: Runner, split: EncodedSplit, *, threshold: float | None) -> NDArray[np.bool_]:
    """Whether an export chooses what a model chooses, (N,), for the first inputs of a split.

    Args:
        model: in evaluation mode.
        runner: the export.
        split: of inputs that have classes or labels.
        threshold: of models that give any number of labels, all of which must be the same; None: the likeliest class.
    """
    same = []
    for given in _inputs(model, split):
        with torch.inference_mode():
            ours: Logits = model(torch.from_numpy(given)).numpy()
        theirs = runner.logits(given)
        same.append((_chosen(ours, threshold) == _chosen(theirs, threshold)).all(axis=-1))
    return np.concatenate(same)


def _chosen(logits: Logits, threshold: float | None) -> NDArray[Any]:
    """(N, K) logits → (N, 1) the likeliest class, or (N, K) whether each label is given."""
    chosen: NDArray[Any] = logits.argmax(axis=-1)[:, np.newaxis]
    return chosen if threshold is None else logits >= math.log(threshold / (1 - threshold))


def _inputs(model: Model, split: EncodedSplit) -> Iterator[Inputs]:
    count = min(split.documents, _HELDOUT_INPUTS)
    if isinstance(model, Cnn):
        yield np.array(split.pictures[:count])
        return
    for index in range(count):  # one by one: an export need not know which token is padding
        yield np.array([split.document(index)[: model.max_seq_len]], dtype=np.int64)


@dataclass(frozen=True)
class Latency:
    """Seconds of each timed pass of the model in PyTorch and of an export, on one input. Pictures have no length."""

    length: int | None
    ours: list[float]
    theirs: list[float]


def compare_latency(source: Runner, runner: Runner, model: Model, length: int) -> Latency:
    """Time one sequence of `length` tokens, or one picture, in both, in turns."""
    ids = random_inputs(model, 1, length)
    ours: list[float] = []
    theirs: list[float] = []
    for turn in range(_ROUNDS):
        warm_ups = 1 if turn else _WARM_UPS  # what the other side pushed out of the caches comes back
        ours += source.seconds(ids, warm_ups=warm_ups, runs=_RUNS)
        theirs += runner.seconds(ids, warm_ups=warm_ups, runs=_RUNS)
    return Latency(None if isinstance(model, Cnn) else length, ours, theirs)
