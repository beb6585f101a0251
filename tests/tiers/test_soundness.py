"""Tier 1: sound models of every kind pass, each limit can be missed, and what does not apply says so."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from tiny_subjects import MODELS
from torch import nn

from pipeline.models.transformer import Transformer
from pipeline.tiers.checks import CHECKS, TIERS, checks_of
from pipeline.tiers.normality import shapiro_wilk
from pipeline.tiers.run import tier_settings

pytestmark = pytest.mark.integration

# What cannot be judged without data and exports, and for lack of a limit, whatever the model.
NEVER = {"inference_speed", "leakage_audit", "exports"}
OF_TOKENS = {"causal_isolation", "packing_isolation", "padding_invariance", "weight_tying", "attention_patterns"}
NOT_OF = {
    "lm": {"packing_isolation"},
    "seq2seq": {"packing_isolation"},
    "masked_lm": {"causal_isolation"},
    "text_classification": {"packing_isolation", "weight_tying"},
    "vision_classification": OF_TOKENS,
    "vision_multilabel": OF_TOKENS,
}


@pytest.mark.parametrize("task_type", MODELS)
def test_a_sound_model_of_every_kind_fails_nothing_and_what_does_not_apply_is_no_pass(subject_of, found_by, task_type):
    results = found_by(subject_of(task_type), 1, 2, 3, 4)

    left_out = {name for name, found in results.items() if found.outcome.status == "not_judged"}
    assert left_out == NEVER | NOT_OF[task_type]
    assert {name: found.outcome for name, found in results.items() if found.outcome.status == "failed"} == {}
    assert all(results[name].outcome.measured for name in left_out)


@pytest.mark.parametrize(
    "changes", [{"qk_norm": True, "activation": "relu2", "short_conv": 4}, {"num_kv_heads": 2, "dropout": 0.3}]
)
def test_a_sound_model_with_other_options_fails_nothing(subject_of, found_by, changes):
    subject = subject_of(**changes, tie_embeddings=False, separate_documents=True)
    for name, parameter in subject.model.named_parameters():
        if "_conv" in name:  # as after training: no matrix, so they may all lean to one side
            nn.init.normal_(parameter, mean=-0.3, std=0.3)

    results = found_by(subject, 1, 2)

    assert [name for name, found in results.items() if found.outcome.status == "failed"] == []
    assert results["packing_isolation"].outcome.status == "passed"
    assert results["parameter_initialization"].outcome.status == "passed"


def test_every_check_says_why_it_matters_and_what_to_do():
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert {check.tier for check in CHECKS} == {*TIERS}
    assert all(check.why and check.advice and check.run.__doc__ for check in CHECKS)


def test_checks_stand_after_those_that_they_build_on():
    names = [check.name for check in CHECKS]

    assert all(names.index(other) < names.index(check.name) for check in CHECKS for other in check.after)
    assert [check.name for check in checks_of([3])] == [
        "parameter_initialization",
        "shape_robustness",
        "tiny_task",
        "one_batch",
    ]


def test_the_figures_are_those_of_the_settings(subject_of, found_by):
    settings = {"memory": {}, "output_stability": {}, "speed": {}}

    results = found_by(subject_of(settings=settings), 1)

    assert results["shape_robustness"].outcome.details["shapes"] == ["1x1", "1x24"]  # the others are too long
    assert [*results["memory_footprint"].outcome.details["peak_mb"]] == ["1", "2", "4", "8", "16"]
    assert results["output_stability"].outcome.details["values"] == 100 * 24 * 64
    assert {"mean_ms", "std_ms", "median_ms", "p95_ms", "p99_ms", "per_second"} <= {
        *results["inference_speed"].outcome.details
    }


def test_the_defaults_are_the_contracted_numbers():
    settings = tier_settings()

    assert [tuple(shape.values()) for shape in settings["shapes"]["batches"]] == [
        (1, 1), (1, None), (16, 32), (4, 64), (2, 128)
    ]  # fmt: skip
    assert (settings["speed"]["warmup_runs"], settings["speed"]["timed_runs"]) == (5, 50)
    assert settings["export"]["max_abs_diff"] == 1e-4


# Each limit can be missed


class WrongShape(Transformer):
    def forward(self, ids, cache=None):
        return super().forward(ids, cache)[..., :-1]


class Constant(Transformer):
    def forward(self, ids, cache=None):
        return 1e-6 * super().forward(ids, cache)


def unused(model):
    model.spare = nn.Linear(2, 2)


def zeroed(model):
    model.layers[0].mlp.up_proj.weight.zero_()


def wide(model):
    model.layers[0].self_attn.q_proj.weight.mul_(200)


def off_centre(model):
    model.norm.weight.mul_(100)
    model.embed_tokens.weight.add_(0.2)


FAULTS = [
    ({"of": WrongShape}, "shape_robustness", "failed", r"1 x 1 gives \(1, 1, 63\)"),
    ({"change": unused}, "gradient_flow", "failed", "without a gradient: spare.weight, spare.bias"),
    ({"settings": {"gradient_flow": {"explosion_norm": 0.01}}}, "gradient_flow", "failed", "exploding: "),
    ({"settings": {"gradient_flow": {"vanishing_norm": 0.01}}}, "gradient_flow", "warning", "vanishing: "),
    ({"of": Constant}, "output_stability", "failed", "deviation 1.3e-07"),
    ({"settings": {"output_stability": {"unstable_std": 0.1}}}, "output_stability", "failed", "deviation 0.13"),
    ({"settings": {"output_stability": {"max_abs_mean": 1e-9}}}, "output_stability", "warning", "of mean "),
    ({"change": zeroed}, "parameter_initialization", "failed", "all zeros: layers.0.mlp.up_proj.weight"),
    ({"change": wide}, "parameter_initialization", "warning", "layers.0.self_attn.q_proj.weight .*deviation 4"),
    ({"change": off_centre}, "parameter_initialization", "warning", "embed_tokens.weight .mean 0.2"),
]


@pytest.mark.parametrize(("arguments", "check", "status", "message"), FAULTS)
def test_a_limit_that_is_missed_is_named(subject_of, outcome_of, arguments, check, status, message):
    found = outcome_of(subject_of(**arguments), check)

    assert found.status == status
    assert re.search(message, found.measured), found.measured


def test_a_model_that_says_it_is_untied_and_is_not_fails(subject_of, outcome_of):
    subject = subject_of()
    subject.description["model"]["tie_embeddings"] = False

    found = outcome_of(subject, "weight_tying")

    assert (found.status, found.details) == ("failed", {"said": False, "tied": True})


def test_examining_changes_neither_the_model_nor_the_random_state(subject_of, found_by):
    subject = subject_of(dropout=0.2)
    before = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
    torch.manual_seed(7)
    state = torch.get_rng_state()

    found_by(subject, 1, 2, 3)

    assert all(torch.equal(before[name], tensor) for name, tensor in subject.model.state_dict().items())
    assert all(parameter.grad is None for parameter in subject.model.parameters())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("count", [12, 50, 1000, 5000])
@pytest.mark.parametrize("draw", ["normal", "uniform", "exponential"])
def test_the_test_for_normality_is_that_of_scipy(count, draw):
    stats = pytest.importorskip("scipy.stats")
    values = getattr(np.random.default_rng(count), draw)(size=count)

    statistic, p_value = shapiro_wilk(values.tolist())

    expected = stats.shapiro(values)
    assert statistic == pytest.approx(expected.statistic, abs=1e-4)
    assert p_value == pytest.approx(expected.pvalue, abs=2e-3)


def test_the_guide_has_a_row_for_every_check(checkout):
    text = (checkout / "docs/tiers.md").read_text(encoding="utf-8")

    rows = re.findall(r"^\| `(\w+)` \| (\d) \| (\w+) \|", text, re.MULTILINE)

    assert rows == [(check.name, str(check.tier), check.group) for check in CHECKS]
