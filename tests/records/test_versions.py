"""Versions of models follow from how their specs differ."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_models import spec_of

from pipeline.errors import FoundryError
from pipeline.records.versions import Version, bump_between
from pipeline.spec.difference import Difference, differences_of

pytestmark = pytest.mark.unit


def found(**changes: Any) -> list[Difference]:
    named = {path.replace("__", "."): value for path, value in changes.items()}
    return differences_of(spec_of({}), spec_of(named), kind="experiment")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"tokenizer__vocab_size": 512}, "major"),
        ({"dataset__cleaning__strip_markdown": False}, "major"),
        ({"tokenizer__vocab_size": 512, "model__d_model": 64}, "major"),
        ({"model__d_model": 64}, "minor"),
        ({"model__short_conv": 4}, "minor"),
        ({"model__rope_theta": 500.0, "training__epochs": 3}, "minor"),
        ({"task__task_type": "seq2seq"}, "minor"),
        ({"training__learning_rate": 0.5}, "patch"),
        (
            {"model__dropout": 0.3, "model__attention_dropout": 0.1, "model__init_std": 0.1, "model__zero_init": True},
            "patch",
        ),
        ({"export__opset": 20, "name": "other", "model__model_name": "other"}, "patch"),
        ({}, "patch"),
    ],
)
def test_the_part_that_goes_up_is_that_of_the_greatest_difference(changes: dict[str, Any], part: str) -> None:
    assert bump_between(found(**changes)).part == part


def test_a_bump_names_the_settings_that_make_it_and_no_others() -> None:
    bump = bump_between(found(model__d_model=64, training__epochs=3))

    assert bump.reasons == ("model.d_model",)
    assert str(bump) == "minor, another architecture (model.d_model)"


def test_what_the_vocabulary_is_settles_what_the_settings_suggest() -> None:
    of_corpus = found(dataset__validation_split=0.2)

    assert bump_between(of_corpus, other_vocabulary=False).part == "patch"
    assert bump_between([], other_vocabulary=True).part == "major"
    assert bump_between(found(model__d_model=64), other_vocabulary=True).part == "major"


def test_the_parts_after_the_one_that_goes_up_begin_at_0() -> None:
    version = Version.parse("1.2.3")

    assert [str(version.next(part)) for part in ("major", "minor", "patch")] == ["2.0.0", "1.3.0", "1.2.4"]
    assert Version.parse("1.10.0") > Version.parse("1.9.9")


@pytest.mark.parametrize(
    "text", ["1.2", "1.2.3.4", "v1.2.3", "1.02.3", "1.2.3-rc1", "", "1.2.x", "\u0661.0.0", "1.2.3\n"]
)
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(FoundryError, match="is not a version"):
        Version.parse(text)
