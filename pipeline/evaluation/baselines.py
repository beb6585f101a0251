"""What a model has to beat, for each task.

For texts: held-out bits per byte of two models of counts, on the same tokens. Both score every token of the held-out
array after the first, exactly those that the neural model is scored on. For hidden tokens: how often each token occurs,
whatever is around it. For classes: always the most frequent one. For labels: how often each
occurs, whatever the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.encoded import EncodedSplit
from pipeline.tasks.vision_multilabel import precision_recall_f1

_MAX_VOCABULARY = 2_000_000  # a trigram is one int64: V³ must stay below 2⁶³ ≈ (2,097,152)³

Ids = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]


def language_baselines(train: EncodedSplit, heldout: EncodedSplit) -> dict[str, float]:
    """`baselines` of two splits."""
    return baselines(train.tokens, heldout.tokens, train.metadata["vocab_size"], heldout.counts["bytes"])


def unigram_baseline(train: EncodedSplit, heldout: EncodedSplit) -> dict[str, float]:
    """How well hidden tokens are guessed by how often each occurs in the training split, plus one.

    It is scored on every held-out token of text, of which the hidden ones are a fair sample; control tokens, which are
    never hidden, are left out on both sides.

    Returns:
        `unigram_loss` in nats per token, and `unigram_accuracy` of the most frequent token, as a fraction.
    """
    metadata = train.metadata
    control = [metadata["special_tokens"][token] for token in ("<s>", "</s>", "<pad>", "<unk>", "<mask>")]
    counts = np.bincount(train.tokens, minlength=metadata["vocab_size"]) + 1  # (V,)
    counts[control] = 0
    ids = heldout.tokens[~np.isin(heldout.tokens, control)]
    nats = -np.log(counts[ids] / counts.sum())
    return {"unigram_loss": float(nats.mean()), "unigram_accuracy": float((ids == counts.argmax()).mean())}


def majority_baseline(train: EncodedSplit, heldout: EncodedSplit) -> dict[str, float]:
    """`majority_accuracy`: how often the most frequent class of the training split is right, as a fraction."""
    most = np.bincount(train.labels).argmax()
    return {"majority_accuracy": float((heldout.labels == most).mean())}


def label_baseline(train: EncodedSplit, heldout: EncodedSplit) -> dict[str, float]:
    """What is reached without looking at a picture.

    Returns:
        `frequency_loss`: nats per label, where each is as likely as it is frequent in the training split, counted with
        one picture more that has it and one that has not. `majority_exact_match`: how often the most frequent set of
        labels of the training split is right, as a fraction. `every_label_micro_f1`: micro F1 of giving every picture
        every label, as a fraction.
    """
    share = (train.labels.sum(axis=0) + 1) / (len(train.labels) + 2)  # (K,)
    nats = -np.log(np.where(heldout.labels == 1, share, 1 - share))  # (N, K)
    sets, counts = np.unique(train.labels, axis=0, return_counts=True)
    right = (heldout.labels == sets[counts.argmax()]).all(axis=1)
    _, _, every = precision_recall_f1(np.full(heldout.labels.shape, fill_value=True), heldout.labels == 1)
    return {
        "frequency_loss": float(nats.mean()),
        "majority_exact_match": float(right.mean()),
        "every_label_micro_f1": every,
    }


def copy_baseline(_train: EncodedSplit, heldout: EncodedSplit) -> dict[str, float]:
    """`copy_exact_match`: how often the source itself is the target, as a fraction."""
    equal = 0
    for index in range(heldout.documents):
        document = heldout.document(index)
        middle = int(heldout.arrays["middles"][index] - heldout.arrays["offsets"][index])
        equal += np.array_equal(document[1:middle], document[middle + 1 : -1])
    return {"copy_exact_match": equal / heldout.documents}


def baselines(train_ids: Ids, heldout_ids: Ids, vocab_size: int, heldout_bytes: int) -> dict[str, float]:
    """Held-out bits per byte of text for each baseline.

    Args:
        train_ids: the training split, integers (N,), N ≥ 3.
        heldout_ids: the held-out split, integers (M,), M ≥ 2.
        vocab_size: number of ids.
        heldout_bytes: UTF-8 bytes of the held-out text.

    Returns:
        `unigram`: how often each token occurs, plus one; `trigram`: interpolated modified Kneser-Ney of order 3.
    """
    unigram = unigram_bits(train_ids, heldout_ids, vocab_size)
    trigram = float(-np.log2(KneserNey(train_ids, vocab_size).score(heldout_ids)).sum())
    return {"unigram": unigram / heldout_bytes, "trigram": trigram / heldout_bytes}


def unigram_bits(train_ids: Ids, heldout_ids: Ids, vocab_size: int) -> float:
    """Bits that the frequencies of the training tokens, plus one each, spend on the held-out tokens after the first."""
    counts = np.bincount(train_ids, minlength=vocab_size) + 1  # (V,)
    bits = -np.log2(counts / counts.sum())
    return float(bits[heldout_ids[1:]].sum())


@dataclass(frozen=True)
class _Order:
    """Discounted n-grams of one order, looked up by binary search.

    An n-gram is one integer: its ids are the digits of a number in base V. Its context is all but the last.

    Attributes:
        grams: distinct n-grams, ascending, int64 (G,).
        kept: share of its context's count that each keeps after the discount, float64 (G,).
        contexts: distinct contexts, ascending, int64 (C,).
        freed: share that the discounts took from each context, for the next lower order, float64 (C,).
    """

    grams: Ids
    kept: Floats
    contexts: Ids
    freed: Floats

    @classmethod
    def of(cls, grams: Ids, counts: Ids, vocab_size: int) -> _Order:
        discounts = _discounts(counts)[np.minimum(counts, 3)]  # (G,)
        contexts, place = np.unique(grams // vocab_size, return_inverse=True)
        totals = np.bincount(place, weights=counts)  # (C,)
        kept = (counts - discounts) / totals[place]
        freed = np.bincount(place, weights=discounts) / totals
        return cls(grams, kept, contexts, freed)

    def over(self, lower: Floats, grams: Ids, vocab_size: int) -> Floats:
        """Probabilities of n-grams (M,), given those of the next lower order."""
        seen, place = _find(self.contexts, grams // vocab_size)
        weight = np.where(seen, self.freed[place], 1.0)  # an unseen context says nothing: all to the lower order
        found, place = _find(self.grams, grams)
        return np.where(found, self.kept[place], 0.0) + weight * lower


class KneserNey:
    """A trigram model: interpolated modified Kneser-Ney smoothing.

    Chen and Goodman, "An empirical study of smoothing techniques for language modeling" (1999). The lower orders
    count in how many contexts a token occurs, not how often; the lowest is interpolated with 1/V, so every token
    has a probability and those after any context sum to one.

    Args:
        ids: the training tokens, integers (N,), N ≥ 3.
        vocab_size: number of ids, at most two million.
    """

    def __init__(self, ids: Ids, vocab_size: int) -> None:
        assert len(ids) >= 3
        assert vocab_size <= _MAX_VOCABULARY
        self._vocab_size = vocab_size
        base = vocab_size
        tokens = np.asarray(ids, dtype=np.int64)
        trigrams, counts = np.unique((tokens[:-2] * base + tokens[1:-1]) * base + tokens[2:], return_counts=True)
        # A bigram's count is the number of distinct tokens before it, and a unigram's likewise.
        bigrams, before_bigram = np.unique(trigrams % base**2, return_counts=True)
        unigrams, before_unigram = np.unique(bigrams % base, return_counts=True)
        self._trigrams = _Order.of(trigrams, counts, base)
        self._bigrams = _Order.of(bigrams, before_bigram, base)
        lowest = _Order.of(unigrams, before_unigram, base)  # all share one context, 0
        everything = np.arange(base, dtype=np.int64)
        self._unigram = lowest.over(np.full(base, 1 / base), everything, base)  # (V,)

    def probability(self, first: Ids, second: Ids, token: Ids) -> Floats:
        """P(token | first second) for arrays of ids (M,)."""
        base = self._vocab_size
        bigram = np.asarray(second, dtype=np.int64) * base + token
        trigram = np.asarray(first, dtype=np.int64) * base**2 + bigram
        lower = self._bigrams.over(self._unigram[token], bigram, base)
        return self._trigrams.over(lower, trigram, base)

    def score(self, ids: Ids) -> Floats:
        """Probabilities of the tokens after the first, float64 (M - 1,); the second has a context of one token."""
        tokens = np.asarray(ids, dtype=np.int64)
        base = self._vocab_size
        second = self._bigrams.over(self._unigram[tokens[1:2]], tokens[0:1] * base + tokens[1:2], base)
        return np.concatenate([second, self.probability(tokens[:-2], tokens[1:-1], tokens[2:])])


def _discounts(counts: Ids) -> Floats:
    """What is taken from n-grams seen 0, 1, 2, and 3 or more times."""
    once, twice, thrice, often = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    if not (once and twice and thrice):
        return np.array([0.0, 0.5, 1.0, 1.5])  # too little text to estimate them; KenLM falls back to the same
    share = once / (once + 2 * twice)
    estimated = [1 - 2 * share * twice / once, 2 - 3 * share * thrice / twice, 3 - 4 * share * often / thrice]
    # On little text an estimate can leave the range in which what is kept and what is freed are both positive.
    return np.array([0.0, *np.clip(estimated, 0.01, [1.0, 2.0, 3.0])])


def _find(sorted_keys: Ids, keys: Ids) -> tuple[NDArray[np.bool_], Ids]:
    """Which keys are there, and where; where one is not, the place is of another."""
    place = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return sorted_keys[place] == keys, place


# task.task_type → (training split, held-out split) → what a model has to beat
BASELINES: Mapping[str, Callable[[EncodedSplit, EncodedSplit], dict[str, float]]] = {
    "lm": language_baselines,
    "masked_lm": unigram_baseline,
    "seq2seq": copy_baseline,
    "text_classification": majority_baseline,
    "vision_classification": majority_baseline,
    "vision_multilabel": label_baseline,
}
