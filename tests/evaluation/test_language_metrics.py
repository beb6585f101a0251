"""Figures of a language model from its total negative log-likelihood."""

from __future__ import annotations

import math

import pytest

from pipeline.evaluation.metrics import quantile, reported
from pipeline.tasks.language_model import bits_per_byte
from pipeline.tasks.task import Evaluation

pytestmark = pytest.mark.unit


def language_metrics(nats, *, tokens, text_bytes):
    return reported(Evaluation(nats, tokens, {"bits_per_byte": bits_per_byte(nats, text_bytes)}))


def test_a_model_that_guesses_bytes_evenly_needs_8_bits_a_byte():
    figures = language_metrics(1000 * math.log(256), tokens=1000, text_bytes=1000)

    assert figures["bits_per_byte"] == pytest.approx(8)
    assert figures["perplexity"] == pytest.approx(256)
    assert figures["val_loss"] == pytest.approx(math.log(256))


def test_bits_per_byte_do_not_depend_on_how_the_text_is_cut_into_tokens():
    few, many = (language_metrics(500.0, tokens=tokens, text_bytes=300) for tokens in (50, 200))

    assert few["bits_per_byte"] == many["bits_per_byte"]
    assert few["val_loss"] == 4 * many["val_loss"]


@pytest.mark.parametrize("nats", [math.nan, math.inf, 1e6])
def test_a_figure_that_json_cannot_hold_is_none(nats):
    figures = language_metrics(nats, tokens=1000, text_bytes=1000)

    assert figures["perplexity"] is None
    assert (figures["val_loss"] is None) == (not math.isfinite(nats))


def test_a_quantile_is_a_measured_value_that_this_share_does_not_exceed():
    values = [float(i) for i in range(100, 0, -1)]

    assert [quantile(values, share) for share in (0.0, 0.5, 0.95, 1.0)] == [1, 50, 95, 100]
    assert quantile([7.0], 0.95) == 7
