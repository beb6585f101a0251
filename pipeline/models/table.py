"""The models there are: `model.model_type` of a spec → its class. Adding a model is a file and a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from pipeline.models.bert import Bert
from pipeline.models.cnn import Cnn
from pipeline.models.model import Model
from pipeline.models.text_classifier import TextClassifier
from pipeline.models.transformer import Transformer

MODELS: Mapping[str, Callable[..., Model]] = {"llama": Transformer, "gpt": Transformer, "bert": Bert, "cnn": Cnn}
# In their place where the corpus has classes.
CLASSIFIERS: Mapping[str, Callable[..., Model]] = {"llama": TextClassifier, "gpt": TextClassifier}


def arguments_of(settings: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a model's class.

    Args:
        settings: the `model` section of a spec, of which those are taken that the class of its `model_type` takes.
        sizes: what follows from the encoded corpus; `num_classes` among them makes it a classifier.
    """
    taken = {*signature(MODELS[settings["model_type"]]).parameters}
    if "num_classes" in sizes:
        taken |= {*signature(_classifier(settings["model_type"])).parameters}
    return {**{name: value for name, value in settings.items() if name in taken}, **sizes}


def build_model(arguments: Mapping[str, Any]) -> Model:
    """A model with fresh weights.

    Args:
        arguments: of its class, as model.json keeps them; `model_type` says which class.
    """
    name = arguments["model_type"]
    return (_classifier(name) if "num_classes" in arguments else MODELS[name])(**arguments)


def _classifier(model_type: str) -> Callable[..., Model]:
    return CLASSIFIERS.get(model_type, MODELS[model_type])
