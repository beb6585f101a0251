"""Real models with one real fault each: the right check finds it, and no check of another group does."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.data.batches import IGNORED
from pipeline.models.bert import Bert
from pipeline.models.transformer import Transformer
from pipeline.tasks.language_model import LanguageModel

pytestmark = pytest.mark.integration


class LeakyMask(Transformer):
    """A token sees the one after it."""

    def build_tables(self, device):
        super().build_tables(device)
        mask = torch.full((self.max_seq_len, self.max_seq_len), -math.inf).triu(2)
        self.register_buffer("mask", mask, persistent=False)


class LateLogits(Transformer):
    """The logits of a place are those of the one before it."""

    def forward(self, ids, cache=None):
        found = super().forward(ids, cache)
        return torch.cat((found[:, :1], found[:, :-1]), dim=1)


class PositionsOfTheWindow(Transformer):
    """Documents are kept apart, but their positions go on from one to the next."""

    def hidden(self, ids, cache=None):  # noqa: ARG002 - the signature of the model
        length = ids.shape[1]
        mask = torch.where(self._visible(ids), self.mask[:length, :length], -math.inf)[:, None]
        x = self.embed_tokens(ids) + self.embed_positions.weight[:length]
        for layer, block in enumerate(self.layers):
            x = block(x, mask, None, None, layer)
        return self.norm(x)


class NoWallBetweenDocuments(Transformer):
    """Positions begin anew with each document, but its tokens see the one before."""

    def _visible(self, ids):
        return (self.mask[: ids.shape[1], : ids.shape[1]] == 0).expand(len(ids), -1, -1)


class DropoutLeftOn(Transformer):
    """Dropout does not care whether the model is trained."""

    def hidden(self, ids, cache=None):
        return functional.dropout(super().hidden(ids, cache), 0.1, training=True)


class MixedRows(Transformer):
    """Features are centred over the rows of a batch."""

    def hidden(self, ids, cache=None):
        found = super().hidden(ids, cache)
        return found - 0.5 * found.mean(0)


class EveryRowWithEvery(Transformer):
    """Each pass computes how alike any two rows are, in every feature."""

    def hidden(self, ids, cache=None):
        found = super().hidden(ids, cache)
        alike = found[:, None] - found[None]
        return found + 0 * alike.sum(1)


class PaddingIsText(Bert):
    """Padding is seen as if it were text."""

    def _groups(self, ids):
        return torch.ones_like(ids)


class ShiftsAgain(LanguageModel):
    """The loss shifts targets that are shifted already."""

    def loss(self, model, *batch):
        ids, targets = batch
        logits = model(ids)[:, :-1]
        return functional.cross_entropy(
            logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
        )


class CountsPadding(LanguageModel):
    """What should not count is taken for the first token."""

    def loss(self, model, *batch):
        ids, targets = batch
        return super().loss(model, ids, targets.clamp(min=0))


def nan_weight(model):
    model.layers[1].mlp.up_proj.weight[3, 5] = math.nan


def untied_copy(model):
    model.lm_head = nn.Linear(32, 64, bias=False)
    model.lm_head.weight.copy_(model.embed_tokens.weight)


def dead_head(model):
    model.layers[1].self_attn.v_proj.weight[8:16] = 0
    model.layers[1].self_attn.o_proj.weight[:, 8:16] = 0


PACKED = {"model_type": "gpt", "separate_documents": True}
MUTANTS = {
    "leaky mask": ({"of": LeakyMask}, "causal_isolation", "isolation"),
    "late logits": ({"of": LateLogits}, "target_alignment", "loss"),
    "positions go on": ({"of": PositionsOfTheWindow, **PACKED}, "packing_isolation", "isolation"),
    "no wall between documents": ({"of": NoWallBetweenDocuments, **PACKED}, "packing_isolation", "isolation"),
    "dropout left on": ({"of": DropoutLeftOn}, "determinism", "determinism"),
    "untied copy": ({"change": untied_copy}, "weight_tying", "weights"),
    "NaN weight": ({"change": nan_weight}, "parameter_initialization", "weights"),
    "dead head": ({"change": dead_head}, "attention_patterns", "attention"),
    "rows that mix": ({"of": MixedRows}, "batch_order_invariance", "isolation"),
    "rows that are compared": ({"of": EveryRowWithEvery, "settings": {"memory": {}}}, "memory_footprint", "cost"),
    "padding is text": ({"task_type": "masked_lm", "of": PaddingIsText}, "padding_invariance", "isolation"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_fault_fails_its_own_check_and_no_check_of_another_group(subject_of, found_by, name):
    arguments, check, group = MUTANTS[name]

    results = found_by(subject_of(**arguments), 1, 2)

    failed = {found.check.name: found.check.group for found in results.values() if found.outcome.status == "failed"}
    assert check in failed
    assert {*failed.values()} == {group}


@pytest.mark.parametrize(("task", "check"), [(ShiftsAgain, "target_alignment"), (CountsPadding, "loss_mask")])
def test_a_fault_of_the_loss_fails_its_own_check_alone(subject_of, found_by, tokenizer, task, check):
    results = found_by(subject_of(task=task(tokenizer=tokenizer, max_seq_len=24)), 1, 2)

    assert [name for name, found in results.items() if found.outcome.status == "failed"] == [check]


def test_what_builds_on_a_failed_check_is_not_judged_and_says_why(subject_of, found_by):
    results = found_by(subject_of(change=nan_weight), 1, 2, 3)

    for name in ("determinism", "causal_isolation", "attention_patterns", "one_batch"):
        assert results[name].outcome.status == "not_judged"
        assert results[name].outcome.measured == "parameter_initialization failed, which it builds on"


def test_a_leak_names_the_tokens(subject_of, outcome_of):
    found = outcome_of(subject_of(of=LeakyMask), "causal_isolation")

    assert "token 0 sees token 1 or a later one" in found.measured
    assert found.details["changed_from"] == [1, 12, 23]
