"""Tiers 2 and 3: what is measured is what it is called, and each limit can be missed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.models.transformer import Transformer
from pipeline.tiers.analysis import _integrated, _path
from pipeline.tiers.drawings import DRAWINGS, draw_pictures
from pipeline.tiers.run import examine

pytestmark = pytest.mark.integration


class Steep(Transformer):
    """Its answer hangs on the sign of what is left of the features after most of them."""

    def forward(self, ids, cache=None):
        return super().forward(ids, cache).mul(1e4).sin()


def one_eyed(model):
    for block in model.layers:
        block.self_attn.q_proj.weight.mul_(1000)
        block.self_attn.k_proj.weight.mul_(1000)


class Forgets(Transformer):
    """What it computes does not come from its inputs."""

    def hidden(self, ids, cache=None):
        return super().hidden(ids, cache).detach() * 0 + self.norm.weight


class Unsteady(Transformer):
    """A change of a thousandth of its embeddings makes another answer."""

    def forward(self, ids, cache=None):
        return (super().forward(ids, cache) * 1e6).sin()


# Attention


def test_entropy_and_weights_are_those_of_a_model_that_looks_everywhere_alike(subject_of, outcome_of):
    def even(model):
        for block in model.layers:
            block.self_attn.q_proj.weight.zero_()

    outcome = outcome_of(subject_of(change=even), "attention_patterns")

    (layer, _) = outcome.details["layers"]
    expected = torch.arange(2, 25).log().mean()  # a token sees itself and all before it; the first sees itself alone
    assert layer["entropy"] == pytest.approx([float(expected)] * 4, abs=1e-4)
    assert layer["specialisation"] == pytest.approx(0, abs=1e-5)
    assert layer["largest_weight"] == pytest.approx([float((1 / torch.arange(2, 25)).mean())] * 4, abs=1e-4)


def test_a_layer_that_looks_at_one_token_is_a_warning(subject_of, outcome_of):
    outcome = outcome_of(subject_of(change=one_eyed), "attention_patterns")

    assert outcome.status == "warning"
    assert outcome.measured.startswith("layers 0, 1 have collapsed; 8 heads, ")


def test_a_dead_head_is_named(subject_of, outcome_of):
    def dead(model):
        model.layers[1].self_attn.o_proj.weight[:, 8:16] = 0

    assert outcome_of(subject_of(change=dead), "attention_patterns").measured.startswith("dead: layer 1 head 1; ")


# Attribution


def test_attributions_of_a_linear_model_are_its_weights_times_its_inputs(subject_of):
    subject = subject_of("vision_classification")
    weights = torch.arange(64.0).reshape(64, 1) * torch.tensor([0.0, 0.5, 1.0])  # the last class wins

    class Linear(nn.Module):
        def forward(self, pictures):
            return pictures.float().flatten(1) @ weights

    subject.model = Linear()
    inputs = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)

    answer, shares, total = _integrated(subject, inputs, *_path(16))

    assert answer == 2
    assert torch.allclose(shares.flatten(), inputs.flatten().float() * torch.arange(64.0), rtol=1e-4)
    assert total == pytest.approx(sum(place**2 for place in range(64)), rel=1e-5)


def test_attributions_that_do_not_add_up_are_a_warning(subject_of, outcome_of):
    subject = subject_of(of=Steep, settings={"attribution": {"steps": 2}})

    outcome = outcome_of(subject, "attribution")

    assert outcome.status == "warning"
    assert outcome.details["delta"] > 0.01


def test_attributions_that_are_no_numbers_fail(subject_of, outcome_of):
    class NoSlope(Transformer):
        def forward(self, ids, cache=None):
            found = super().forward(ids, cache)
            return found + (0 * found).sqrt()  # whose slope at 0 is infinite

    outcome = outcome_of(subject_of(of=NoSlope), "attribution")

    assert outcome.status == "failed"
    assert "nan" in outcome.measured


def test_the_strongest_tokens_are_shown_by_what_they_say(subject_of, outcome_of, finished):
    subject = subject_of(data=finished / "artifacts/tokenizer")

    strongest = outcome_of(subject, "attribution").details["strongest"]

    assert len(strongest) == 5
    sizes = [abs(token["share"]) for token in strongest]
    assert sizes == sorted(sizes, reverse=True)
    assert not all(token["token"].isdigit() for token in strongest)


# Robustness


def test_answers_that_noise_changes_fail_and_fewer_warn(subject_of, outcome_of):
    wild = outcome_of(subject_of(of=Unsteady), "robustness")
    some = outcome_of(subject_of(of=Unsteady, settings={"robustness": {"alert_agreement": 0}}), "robustness")

    assert (wild.status, some.status) == ("failed", "warning")
    assert "of the answers stay" in wild.measured


def test_without_noise_every_answer_stays_and_more_noise_changes_more(subject_of, outcome_of):
    levels = outcome_of(subject_of(settings={"robustness": {"noise_levels": [2.0, 0.0]}}), "robustness")

    calm, loud = levels.details["levels"]
    assert (calm["noise"], calm["agreement"], calm["kl"], calm["flip_rate"]) == (0, 1, pytest.approx(0, abs=1e-6), 0)
    assert loud["agreement"] < 1
    assert loud["kl"] > 0


# Short fits


def test_a_model_that_does_not_use_its_inputs_learns_neither_task(subject_of, found_by):
    results = found_by(subject_of(of=Forgets, settings={"short_fit": {"max_steps": 30}}), 3)

    assert [results[name].outcome.status for name in ("tiny_task", "one_batch")] == ["failed", "failed"]
    assert results["one_batch"].outcome.measured.endswith("in 30 steps")


def test_a_batch_that_is_not_learned_in_time_fails(subject_of, outcome_of):
    outcome = outcome_of(subject_of(settings={"short_fit": {"max_steps": 1}}), "one_batch")

    assert (outcome.status, outcome.limit) == ("failed", "0.1 nats within 1 steps")


# Pictures


@pytest.mark.parametrize("task_type", ["lm", "vision_classification"])
def test_what_tier_2_finds_is_drawn_the_same_each_time(subject_of, tmp_path, task_type):
    pytest.importorskip("matplotlib")
    results = examine(subject_of(task_type), [2])

    drawn = draw_pictures(results, tmp_path / "one")

    assert draw_pictures(results, tmp_path / "two") == drawn
    assert {*drawn} <= {(drawing.title, f"{name}.png") for name, drawing in DRAWINGS.items()}
    assert len(drawn) == (2 if task_type == "vision_classification" else 3)
    for _, name in drawn:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
