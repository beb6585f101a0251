"""The models there are: `model.model_type` of a spec → its class. Adding a model is a file and a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from pipeline.models.cnn import Cnn
from pipeline.models.model import Model
from pipeline.models.transformer import Transformer

MODELS: Mapping[str, Callable[..., Model]] = {"llama": Transformer, "gpt": Transformer, "cnn": Cnn}


def build_model(arguments: Mapping[str, Any]) -> Model:
    """A model with fresh weights.

    Args:
        arguments: of its class, as model.json keeps them; `model_type` says which class.
    """
    return MODELS[arguments["model_type"]](**arguments)


def arguments_of(section: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the `model` section of a spec that the class of its `model_type` takes."""
    taken = signature(MODELS[section["model_type"]]).parameters
    return {name: value for name, value in section.items() if name in taken}
