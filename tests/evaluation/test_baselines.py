"""The two baselines, against their definitions written out the slow way."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from pipeline.data.encoded import EncodedSplit
from pipeline.evaluation.baselines import KneserNey, baselines, label_baseline, unigram_bits

pytestmark = pytest.mark.unit


def tokens(seed, length, vocabulary):
    """Zipf-like tokens, each pulled towards the one before, so that contexts matter and counts spread."""
    generator = np.random.default_rng(seed)
    ids = np.minimum(generator.zipf(1.3, length), vocabulary) - 1
    ids[1:] = (ids[1:] + ids[:-1] * generator.integers(0, 2, length - 1)) % vocabulary
    return ids.astype(np.uint16)


def reference_probability(ids, vocabulary):
    """Interpolated modified Kneser-Ney of order 3 from its definition, with dictionaries."""
    ids = [int(i) for i in ids]
    trigram = Counter(zip(ids, ids[1:], ids[2:], strict=False))
    bigram = Counter((b, c) for _, b, c in trigram)
    unigram = Counter((c,) for _, c in bigram)

    def model(counts, lower):
        n1, n2, n3, n4 = (sum(1 for count in counts.values() if count == k) for k in (1, 2, 3, 4))
        y = n1 / (n1 + 2 * n2)
        discount = {1: 1 - 2 * y * n2 / n1, 2: 2 - 3 * y * n3 / n2, 3: 3 - 4 * y * n4 / n3}
        total, freed = Counter(), defaultdict(float)
        for gram, count in counts.items():
            total[gram[:-1]] += count
            freed[gram[:-1]] += discount[min(count, 3)]

        def probability(*gram):
            below = lower(*gram[1:])
            context = gram[:-1]
            if context not in total:
                return below
            count = counts.get(gram, 0)
            kept = count - discount[min(count, 3)] if count else 0.0
            return kept / total[context] + freed[context] / total[context] * below

        return probability

    return model(trigram, model(bigram, model(unigram, lambda: 1 / vocabulary)))


def test_the_trigram_is_kneser_ney_as_defined():
    train, heldout = tokens(0, 4000, 700), tokens(1, 300, 700)
    reference = reference_probability(train, 700)

    scored = KneserNey(train, 700).score(heldout)

    trigrams = zip(heldout, heldout[1:], heldout[2:], strict=False)
    expected = [reference(int(a), int(b), int(c)) for a, b, c in trigrams]
    np.testing.assert_allclose(scored[1:], expected, rtol=1e-12)


def test_probabilities_sum_to_one_after_seen_and_unseen_contexts():
    train = tokens(2, 3000, 80)
    model = KneserNey(train, 100)  # ids 80 to 99 never occur
    everything = np.arange(100)
    contexts = [(int(train[5]), int(train[6])), (0, 99), (99, 0), (99, 98), (int(train[-2]), int(train[-1]))]
    for first, second in contexts:
        probabilities = model.probability(np.full(100, first), np.full(100, second), everything)

        assert probabilities.min() > 0
        assert probabilities.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("train", [[0, 1, 2], [3, 3, 3, 3, 3, 3, 3], [0, 1, 0, 1, 0, 1, 0, 1, 2]])
def test_little_text_still_gives_a_distribution(train):
    probabilities = KneserNey(np.array(train), 5).probability(np.full(5, 0), np.full(5, 1), np.arange(5))

    assert probabilities.min() > 0
    assert probabilities.sum() == pytest.approx(1, abs=1e-12)


def test_the_largest_ids_do_not_overflow():
    vocabulary = 1_000_000
    train = np.array([999_999, 999_998, 999_999, 999_998, 999_997], dtype=np.uint32)

    probability = KneserNey(train, vocabulary).score(train)

    assert np.all((probability > 0) & (probability < 1))
    assert probability[1] > 0.1  # it was there


def test_the_unigram_is_add_one_frequencies():
    train, heldout = np.array([0, 0, 1], dtype=np.uint16), np.array([2, 0, 1, 3], dtype=np.uint16)

    bits = unigram_bits(train, heldout, 4)

    # the first held-out token is not scored; counts plus one are 3, 2, 1, 1 of 7
    assert bits == pytest.approx(-math.log2(3 / 7) - math.log2(2 / 7) - math.log2(1 / 7))


def test_baselines_are_bits_per_byte_and_the_trigram_is_the_better():
    train, heldout = (np.cumsum(tokens(seed, 20000, 60) % 5) % 60 for seed in (3, 4))

    found = baselines(train, heldout, 60, 40000)

    assert list(found) == ["unigram", "trigram"]
    assert found["unigram"] == pytest.approx(unigram_bits(train, heldout, 60) / 40000)
    assert 0 < found["trigram"] < found["unigram"]


def test_a_text_seen_in_training_costs_almost_nothing():
    train = np.tile(np.arange(50), 200)

    found = baselines(train, np.arange(50), 50, 50)

    assert found["trigram"] < 0.05
    assert found["unigram"] == pytest.approx(math.log2(50) * 49 / 50, rel=0.01)


def labelled(name, rows):
    metadata = {"kind": "multilabel_pictures", "classes": ["cat", "dog"]}
    return EncodedSplit(name, metadata, {"labels": np.array(rows, np.uint8).flatten()})


def test_labels_are_given_by_how_often_they_occur_whatever_the_picture():
    train = labelled("train", [[1, 0], [1, 0], [0, 1]])  # with one more of each: cat 3 of 5, dog 2 of 5
    heldout = labelled("validation", [[1, 0], [0, 0], [1, 1], [1, 0]])

    found = label_baseline(train, heldout)

    nats = -np.log([0.6, 0.6, 0.4, 0.6, 0.6, 0.4, 0.6, 0.6])
    assert found["frequency_loss"] == pytest.approx(nats.mean())
    assert found["majority_exact_match"] == 0.5  # cat alone
    assert found["every_label_micro_f1"] == pytest.approx(2 * 4 / (8 + 4))
