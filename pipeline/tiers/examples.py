"""What the checks know of each task: made-up batches, random and learnable ones, and what its logits mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.data.batches import IGNORED, Batch
from pipeline.models.cnn import Cnn
from pipeline.tasks.masked_lm import MaskedLanguageModel
from pipeline.tiers.subject import Subject

_SYMBOLS = 8  # of the cycles that are learned: few enough for a fit of seconds, and ln 8 = 2.08 nats to win
_CLASSES = 4  # the same for classes
_HIGH, _LOW = 224, 32  # shades of stripes, away from black and white so that noise is not cut off
_NOISE = 16  # of each pixel, in shades


@dataclass(frozen=True)
class Examples:
    """How the batches of one task are made up, and what its logits mean. The last tensor of a batch holds its targets.

    Attributes:
        random: (subject, rows, length, seed) → inputs and targets that have nothing to do with each other.
        learnable: the same → inputs from which the targets follow.
        loss: logits, targets → the loss, summed, as the definition of the task has it.
        same: two logits of the same inputs → whether each answer is the same, (B, T) or (B,).
        divergence: the same → how far the second distribution of each answer is from the first, in nats (KL).
    """

    random: Callable[[Subject, int, int, int], Batch]
    learnable: Callable[[Subject, int, int, int], Batch]
    loss: Callable[[Tensor, Tensor], Tensor]
    same: Callable[[Tensor, Tensor], Tensor]
    divergence: Callable[[Tensor, Tensor], Tensor]


def random_batch(subject: Subject, rows: int, length: int, *, seed: int = 0) -> Batch:
    """A batch of the subject's task in which nothing can be learned but by heart."""
    return EXAMPLES[subject.task_type].random(subject, rows, length, seed)


def learnable_batch(subject: Subject, rows: int, length: int, *, seed: int = 0) -> Batch:
    """A batch of the subject's task in which the targets follow from the inputs by a rule."""
    return EXAMPLES[subject.task_type].learnable(subject, rows, length, seed)


# Tokens that follow, and tokens that are hidden


def _following(ids: Tensor) -> Batch:
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def _random_text(subject: Subject, rows: int, length: int, seed: int) -> Batch:
    return _following(subject.tokens(rows, length + 1, seed=seed))


def _cycles(subject: Subject, rows: int, length: int, seed: int) -> Tensor:
    """(B, T) ids that go round a few symbols, each row from a symbol of its own."""
    first = np.random.default_rng(seed).integers(_SYMBOLS, size=(rows, 1))
    symbols = subject.plain[np.linspace(0, len(subject.plain) - 1, _SYMBOLS).astype(int)]
    return torch.from_numpy(symbols[(first + np.arange(length)) % _SYMBOLS])


def _cyclic_text(subject: Subject, rows: int, length: int, seed: int) -> Batch:
    return _following(_cycles(subject, rows, length + 1, seed))


def _hidden(subject: Subject, ids: Tensor, seed: int) -> Batch:
    task = subject.task
    assert isinstance(task, MaskedLanguageModel)
    generator = np.random.default_rng(seed)
    hidden = [task.masking.hide(row, generator) for row in ids.numpy()]
    return tuple(torch.from_numpy(np.stack(arrays)) for arrays in zip(*hidden, strict=True))


def _random_hidden(subject: Subject, rows: int, length: int, seed: int) -> Batch:
    return _hidden(subject, subject.tokens(rows, length, seed=seed), seed)


def _cyclic_hidden(subject: Subject, rows: int, length: int, seed: int) -> Batch:
    return _hidden(subject, _cycles(subject, rows, length, seed), seed)


# Classes


def _classes(subject: Subject, rows: int, seed: int, most: int | None = None) -> Tensor:
    count = subject.classes if most is None else min(subject.classes, most)
    return torch.from_numpy(np.random.default_rng(seed).permutation(np.arange(rows) % count))


def _random_labelled_text(subject: Subject, rows: int, length: int, seed: int) -> Batch:
    return subject.tokens(rows, length, seed=seed), _classes(subject, rows, seed)


def _labelled_cycles(subject: Subject, rows: int, length: int, seed: int) -> Batch:
    """The class of a text is the symbol that all of it is made of."""
    labels = _classes(subject, rows, seed, _CLASSES)
    symbols = subject.plain[np.linspace(0, len(subject.plain) - 1, _CLASSES).astype(int)]
    return torch.from_numpy(symbols)[labels][:, None].expand(-1, length).contiguous(), labels


def _random_labelled_pictures(subject: Subject, rows: int, length: int, seed: int) -> Batch:
    return subject.inputs(rows, length), _classes(subject, rows, seed)


def _labelled_stripes(subject: Subject, rows: int, _length: int, seed: int) -> Batch:
    """The class of a picture is which way its stripes run: down, across, both, or there are none."""
    labels = _classes(subject, rows, seed, _CLASSES)
    return _striped(subject, labels, seed), labels


def _striped(subject: Subject, labels: Tensor, seed: int) -> Tensor:
    assert isinstance(subject.model, Cnn)
    _, height, width = subject.model.image_size
    down, across = np.indices((height, width)) % 2
    patterns = np.stack([across, down, (down + across) % 2, np.zeros_like(down)])  # (4, H, W)
    shades = np.where(patterns[labels.numpy()] == 1, _HIGH, _LOW)[:, None]  # (B, 1, H, W)
    shape = (len(labels), *subject.model.image_size)
    noise = np.random.default_rng(seed).integers(-_NOISE, _NOISE, size=shape)
    return torch.from_numpy((shades + noise).astype(np.uint8))


# Any number of labels


def _random_tagged_pictures(subject: Subject, rows: int, length: int, seed: int) -> Batch:
    drawn = np.random.default_rng(seed).integers(2, size=(rows, subject.classes))
    return subject.inputs(rows, length), torch.from_numpy(drawn)


def _tagged_stripes(subject: Subject, rows: int, _length: int, seed: int) -> Batch:
    labels = _classes(subject, rows, seed, _CLASSES)
    return _striped(subject, labels, seed), functional.one_hot(labels, subject.classes)


# What logits mean: one choice of several, or a yes or no for each of several


def _loss_of_choices(found: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(found.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def _same_choices(ours: Tensor, theirs: Tensor) -> Tensor:
    return ours.argmax(-1) == theirs.argmax(-1)


def _divergence_of_choices(ours: Tensor, theirs: Tensor) -> Tensor:
    return _expected_gap(ours.log_softmax(-1), theirs.log_softmax(-1)).sum(-1)


def _loss_of_labels(found: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(found, targets.float(), reduction="sum")


def _same_labels(ours: Tensor, theirs: Tensor) -> Tensor:
    return ((ours > 0) == (theirs > 0)).all(-1)


def _divergence_of_labels(ours: Tensor, theirs: Tensor) -> Tensor:
    yes = _expected_gap(functional.logsigmoid(ours), functional.logsigmoid(theirs))
    no = _expected_gap(functional.logsigmoid(-ours), functional.logsigmoid(-theirs))
    return (yes + no).sum(-1)


def _expected_gap(ours: Tensor, theirs: Tensor) -> Tensor:
    """What each outcome adds to the KL divergence, from the logarithms of its two probabilities."""
    return ours.exp() * (ours - theirs)


_CHOICES = (_loss_of_choices, _same_choices, _divergence_of_choices)
_LABELS = (_loss_of_labels, _same_labels, _divergence_of_labels)
EXAMPLES: Mapping[str, Examples] = {
    "lm": Examples(_random_text, _cyclic_text, *_CHOICES),
    "seq2seq": Examples(_random_text, _cyclic_text, *_CHOICES),
    "masked_lm": Examples(_random_hidden, _cyclic_hidden, *_CHOICES),
    "text_classification": Examples(_random_labelled_text, _labelled_cycles, *_CHOICES),
    "vision_classification": Examples(_random_labelled_pictures, _labelled_stripes, *_CHOICES),
    "vision_multilabel": Examples(_random_tagged_pictures, _tagged_stripes, *_LABELS),
}
