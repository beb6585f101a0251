"""The models there are: `model.model_type` of a spec → its class. Adding a model is a file and a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.models.model import Model
from pipeline.models.transformer import Transformer

MODELS: Mapping[str, Callable[..., Model]] = {"llama": Transformer, "gpt": Transformer}


def build_model(arguments: Mapping[str, Any]) -> Model:
    """A model with fresh weights.

    Args:
        arguments: of its class, as model.json keeps them; `model_type` says which class.
    """
    return MODELS[arguments["model_type"]](**arguments)
