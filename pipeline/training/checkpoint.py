"""Checkpoints: complete or absent, hashed, bound to what they are checkpoints of.

A checkpoint is a folder `checkpoint-<step>/` in the folder of its run. It holds the weights, the optimizer's moments,
every random state and all counters, so that training goes on from it as if it had never stopped, the best weights so
far, and what a person wants to know about it.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline import __version__
from pipeline.errors import ArtifactError, TrainingError, is_disk_full
from pipeline.files import read_artefact, sync_folder, write_artefact, write_manifest
from pipeline.training.averaging import mean_state
from pipeline.training.distributed import ALONE, World
from pipeline.training.finite import require_finite
from pipeline.training.run_folder import (
    METADATA,
    STATE,
    checkpoint_folder,
    checkpoints_in,
    remove,
    unfinished_folder,
    verify_checkpoint,
)

STATE_FORMAT = METADATA_FORMAT = 1
_TEXT_BYTES = 1 << 18  # more than random states, counters, metadata and manifest ever took
_WEIGHTS, _OPTIMIZER, _RANDOM, _BEST = (
    "model.safetensors",
    "optimizer.safetensors",
    "random.json",
    "best.safetensors",
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read from disk and found complete."""

    folder: Path
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    random: dict[str, Any]
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps that were done."""
        return int(self.state["step"])

    @property
    def best_weights(self) -> Path:
        """The safetensors file of the best model so far."""
        return best_weights(self.folder)


def best_weights(checkpoint_folder: Path) -> Path:
    """The safetensors file of the best model known to a checkpoint."""
    return checkpoint_folder / _BEST


def save_checkpoint(
    run_folder: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    metadata: Mapping[str, Any],
    best: Path | None,
    world: World = ALONE,
) -> Path:
    """Write a checkpoint of this very moment; it appears under its name only when all of it is on disk.

    All ranks call this together. The first one writes the whole weights and moments, so that a checkpoint says nothing
    about how many there are; the others wait until it is there.

    Args:
        run_folder: of a lock that is held. A run never saves a step twice; if it did, the newer one would stay.
        model: its whole state is saved.
        optimizer: its moments are saved under the names of the model's parameters.
        state: counters and whatever else is JSON; `state["step"]` names the checkpoint.
        metadata: what a person wants to know about it; metadata.json holds it, with the versions.
        best: weights of the best model so far; None when it is the model being saved: its running mean of the weights
            where there is one, else the weights.
        world: the ranks.

    Raises:
        TrainingError: a weight or a moment is not finite, or the disk has no room; nothing is left behind.
    """
    weights = {name: world.whole_tensor(tensor) for name, tensor in model.state_dict().items()}
    moments = _moments(model, optimizer, world)
    means = {name: world.whole_tensor(tensor) for name, tensor in mean_state(model, optimizer).items()}
    return Path(
        world.from_first(
            lambda: str(
                _write(run_folder, weights, moments=moments, means=means, state=state, metadata=metadata, best=best)
            )
        )
    )


def _write(
    run_folder: Path,
    weights: dict[str, Tensor],
    *,
    moments: dict[str, Tensor],
    means: dict[str, Tensor],
    state: dict[str, Any],
    metadata: Mapping[str, Any],
    best: Path | None,
) -> Path:
    require_finite(weights, what="weight")
    require_finite(moments, what="moment")  # the running means of the weights among them
    target = checkpoint_folder(run_folder, state["step"])
    unfinished = unfinished_folder(run_folder, state["step"])
    needed = sum(tensor.nbytes for tensors in (weights, moments, means) for tensor in tensors.values()) + _TEXT_BYTES
    with _room_for(needed, run_folder):
        unfinished.mkdir()
        try:
            save_file(weights, unfinished / _WEIGHTS)
            save_file(moments, unfinished / _OPTIMIZER)
            write_artefact(unfinished / _RANDOM, "random_states", _random_states())
            write_artefact(unfinished / STATE, "checkpoint_state", {"format_version": STATE_FORMAT, **state})
            versions = {"format_version": METADATA_FORMAT, "toolkit_version": __version__}
            write_artefact(unfinished / METADATA, "checkpoint_metadata", {**versions, **metadata})
            if best is None and means:
                save_file(means, unfinished / _BEST)
            else:
                _link(best or unfinished / _WEIGHTS, unfinished / _BEST)
            write_manifest(unfinished, stage="train", sections={}, inputs={})
            if target.exists():
                remove(target)
            unfinished.rename(target)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    sync_folder(run_folder)
    return target


@contextmanager
def _room_for(needed: int, run_folder: Path) -> Iterator[None]:
    """Refuse a checkpoint of so many bytes that the disk has no room for, before it is written or when it turns out."""
    free = shutil.disk_usage(run_folder).free
    message = f"the disk is full: a checkpoint needs {needed:,} bytes, and there are {free:,}"
    hint = "free some space and run the same command again: it goes on from the last checkpoint"
    if free < needed:
        raise TrainingError(message, where=str(run_folder), hint=hint)
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not is_disk_full(error):
            raise
        message = f"{message} that this process may use in part ({error})"
        raise TrainingError(message, where=str(run_folder), hint=hint) from error


def newest_checkpoint(run_folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest complete checkpoint of a run, and a sentence about each damaged one that was passed over."""
    problems: list[str] = []
    for folder in reversed(checkpoints_in(run_folder).values()):
        try:
            return read_checkpoint(folder), problems
        except ArtifactError as error:
            problems.append(f"checkpoint {folder.name} is damaged and passed over: {error}")
    return None, problems


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint after checking every byte of it.

    Raises:
        ArtifactError: it is incomplete or damaged.
    """
    verify_checkpoint(folder)
    return Checkpoint(
        folder=folder,
        weights=load_file(folder / _WEIGHTS),
        moments=load_file(folder / _OPTIMIZER),
        random=read_artefact(folder / _RANDOM, "random_states"),
        state=read_artefact(folder / STATE, "checkpoint_state"),
    )


def restore(
    checkpoint: Checkpoint, *, model: nn.Module, optimizer: torch.optim.Optimizer, world: World = ALONE
) -> None:
    """Put a checkpoint's weights, moments and random states into place, the random states last."""
    own = model.state_dict()
    model.load_state_dict({name: world.as_part(tensor, own[name]) for name, tensor in checkpoint.weights.items()})
    optimizer.state.clear()  # there may be moments that the checkpoint is older than
    held: dict[str, dict[str, Tensor]] = {}
    for key, tensor in checkpoint.moments.items():
        kind, _, name = key.partition(":")
        held.setdefault(name, {})[kind] = tensor
    for name, parameter in model.named_parameters():
        if state := held.get(name):  # else no step had been taken
            # The fused kernel keeps the step on the device, too.
            optimizer.state[parameter] = {kind: world.as_part(tensor, parameter) for kind, tensor in state.items()}
    _restore_random_states(checkpoint.random)


def _link(source: Path, target: Path) -> None:
    """Give a file that never changes a second name; copy it where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer, world: World) -> dict[str, Tensor]:
    return {
        f"{kind}:{name}": world.whole_tensor(tensor)
        for name, parameter in model.named_parameters()
        for kind, tensor in optimizer.state.get(parameter, {}).items()
    }


def _random_states() -> dict[str, Any]:
    awake = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # a run on the CPU wakes no GPU
    cuda = torch.cuda.get_rng_state_all() if awake else []
    return {
        "python": random.getstate(),
        "numpy": _plain(np.random.get_state(legacy=False)),  # noqa: NPY002 - the global one is what must be saved
        "torch": _to_hex(torch.get_rng_state()),
        "cuda": [_to_hex(state) for state in cuda],
    }


def _restore_random_states(states: dict[str, Any]) -> None:
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    legacy = states["numpy"]
    key = np.array(legacy["state"]["key"], dtype=np.uint32)
    np.random.set_state({**legacy, "state": {**legacy["state"], "key": key}})  # noqa: NPY002
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index, state in enumerate(states["cuda"][:here]):
        torch.cuda.set_rng_state(_from_hex(state), index)
    torch.set_rng_state(_from_hex(states["torch"]))


def _to_hex(state: Tensor) -> str:
    return bytes(state.tolist()).hex()


def _from_hex(text: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
