"""A model that lacks a part of what every model offers cannot be built."""

from __future__ import annotations

import pytest

from pipeline.models.model import Model

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("lacking", ["flops_per_row", "logits_shape"])
def test_a_model_without_an_abstract_method_cannot_be_built(lacking: str) -> None:
    there = {"flops_per_row": lambda _self: 0.0, "logits_shape": lambda _self, _batch, _length: ()}
    whole = type("Whole", (Model,), there)
    half = type("Half", (Model,), {name: method for name, method in there.items() if name != lacking})

    whole()
    with pytest.raises(TypeError, match=lacking):
        half()
