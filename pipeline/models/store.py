"""A model folder: weights in safetensors, everything else in JSON, a manifest over all of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from pipeline.errors import ArtifactError
from pipeline.files import read_artefact, verify_manifest, write_artefact
from pipeline.models.model import Model
from pipeline.models.table import build_model
from pipeline.models.transformer import Transformer

MODEL_FORMAT = 1
BEST, FINAL, DESCRIPTION = "model.safetensors", "final.safetensors", "model.json"
_REBUILD = "foundry run --from train --force"
_DRAWS = frozenset({nn.init.kaiming_uniform_, nn.init.normal_, nn.init.uniform_})


def save_model(
    folder: Path,
    model: Model,
    description: dict[str, Any],
    *,
    weights: str = BEST,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a model's weights and description into a folder (its manifest is the caller's to write).

    Args:
        folder: an existing folder.
        model: its state goes into `weights`, a safetensors file.
        description: goes into model.json; `description["model"]` holds the arguments of the model's class.
        weights: name of the weights file.
        dtype: that the weights are stored in.
    """
    state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    save_file(state, folder / weights, metadata={"format": "pt"})
    write_artefact(folder / DESCRIPTION, "model", {"format_version": MODEL_FORMAT, **description})


def copy_weights(source: Path, target: Path) -> None:
    """Copy a weights file into a model folder, whose weights are float32 whatever they were trained in."""
    weights = load_file(source)
    if all(tensor.dtype == torch.float32 for tensor in weights.values()):
        shutil.copyfile(source, target)
    else:
        save_file({name: tensor.float() for name, tensor in weights.items()}, target, metadata={"format": "pt"})


def load_model(folder: Path, weights: str = BEST) -> tuple[Model, dict[str, Any]]:
    """Open a model folder, after checking every file of it against its manifest.

    Returns:
        The model in evaluation mode on the CPU, and its model.json.

    Raises:
        ArtifactError: a file is missing or damaged, the description is of another format, or the weights
            do not fit the described model.
    """
    verify_manifest(folder, rebuild=_REBUILD)
    return read_model(folder, weights)


def load_language_model(folder: Path) -> tuple[Transformer, dict[str, Any]]:
    """Open the folder of a model that writes text. See `load_model`.

    Raises:
        ArtifactError: the folder is damaged, or holds a model of another task.
    """
    verify_manifest(folder, rebuild=_REBUILD)
    return read_language_model(folder)


def read_language_model(folder: Path) -> tuple[Transformer, dict[str, Any]]:
    """Open the folder of a model that writes text, whose manifest has already been checked.

    Raises:
        ArtifactError: it holds a model of another task.
    """
    model, description = read_model(folder)
    if not isinstance(model, Transformer):
        message = f"{description['model_name']} does not write text: it was trained for {description['task_type']}"
        raise ArtifactError(message, where=str(folder), hint="take the folder of a language model")
    return model, description


def read_model(folder: Path, weights: str = BEST) -> tuple[Model, dict[str, Any]]:
    """Open a model folder whose manifest has already been checked. See `load_model`."""
    description = read_artefact(folder / DESCRIPTION, "model")
    with _Unset():
        model = build_model(description["model"])
    state = {name: tensor.float() for name, tensor in load_file(folder / weights).items()}  # some are stored in 16 bits
    _fill(model, state, where=folder / weights)
    return model.eval(), description


class _Unset(TorchFunctionMode):
    """Draws no numbers for weights that are about to be replaced, so that their memory is never touched.

    The meta device would do the same, but computes the tables of positions with PyTorch's compiler: its import takes
    a second.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Return the tensor where `func` would draw its values."""
        given = kwargs or {}
        return given["tensor"] if func in _DRAWS else func(*args, **given)


def _fill(model: Model, state: dict[str, torch.Tensor], *, where: Path) -> None:
    """Give a new model its weights.

    Raises:
        ArtifactError: names or shapes of the weights are not those of the model.
    """
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        hint = f"build it again with: {_REBUILD}"
        raise ArtifactError(f"the weights do not fit the model: {error}", where=str(where), hint=hint) from error
