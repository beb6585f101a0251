"""Checkpoints: complete or absent, hashed, bound to what they are checkpoints of.

A run folder `<work>/runs/<fingerprint>/` belongs to one trainer at a time (a lock says which) and holds
`checkpoint-<step>/` folders. Each holds the weights, the optimizer's moments, every random state and all counters, so
that training goes on from it as if it had never stopped, and the best weights so far.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.errors import ArtifactError, TrainingError
from pipeline.files import read_artefact, sync_folder, verify_manifest, write_artefact, write_manifest
from pipeline.training.averaging import mean_state
from pipeline.training.distributed import ALONE, World

STATE_FORMAT = 1
_PREFIX, _UNFINISHED = "checkpoint-", ".tmp-"
_WEIGHTS, _OPTIMIZER, _RANDOM, _STATE, _BEST = (
    "model.safetensors",
    "optimizer.safetensors",
    "random.json",
    "state.json",
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


@contextmanager
def locked(run_folder: Path) -> Iterator[None]:
    """Hold a run folder for this process alone, and clear what a killed one left unfinished.

    Raises:
        TrainingError: another process holds it; the message names it.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    with (run_folder / "lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it when we die, however we die
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise TrainingError(
                f"{holder} is already training this experiment",
                where=str(run_folder),
                hint="wait for it or stop it; its checkpoints are kept",
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        for leftover in run_folder.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(leftover)
        yield


def save_checkpoint(
    run_folder: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    best: Path | None,
    world: World = ALONE,
) -> Path:
    """Write a checkpoint of this very moment; it appears under its name only when all of it is on disk.

    All ranks call this together. The first one writes the whole weights and moments, so that a checkpoint says nothing
    about how many there are; the others wait until it is there.

    Args:
        run_folder: of a lock that is held.
        model: its whole state is saved.
        optimizer: its moments are saved under the names of the model's parameters.
        state: counters and whatever else is JSON; `state["step"]` names the checkpoint.
        best: weights of the best model so far; None when it is the model being saved: its running mean of the weights
            where there is one, else the weights.
        world: the ranks.

    Raises:
        TrainingError: a weight is not finite; nothing is written.
    """
    weights = {name: world.whole_tensor(tensor) for name, tensor in model.state_dict().items()}
    moments = _moments(model, optimizer, world)
    means = {name: world.whole_tensor(tensor) for name, tensor in mean_state(model, optimizer).items()}
    return Path(
        world.from_first(lambda: str(_write(run_folder, weights, moments=moments, means=means, state=state, best=best)))
    )


def _write(
    run_folder: Path,
    weights: dict[str, Tensor],
    *,
    moments: dict[str, Tensor],
    means: dict[str, Tensor],
    state: dict[str, Any],
    best: Path | None,
) -> Path:
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise TrainingError(f"the weight {name} is not finite", hint="lower training.learning_rate")
    target = run_folder / f"{_PREFIX}{state['step']:08d}"
    unfinished = run_folder / f"{_UNFINISHED}{target.name}"
    unfinished.mkdir()
    try:
        save_file(weights, unfinished / _WEIGHTS)
        save_file(moments, unfinished / _OPTIMIZER)
        write_artefact(unfinished / _RANDOM, "random_states", _random_states())
        write_artefact(unfinished / _STATE, "checkpoint_state", {"format_version": STATE_FORMAT, **state})
        if best is None and means:
            save_file(means, unfinished / _BEST)
        else:
            _link(best or unfinished / _WEIGHTS, unfinished / _BEST)
        write_manifest(unfinished, stage="train", sections={}, inputs={})
        if target.exists():  # the same moment was saved before, for instance as the best model and then on schedule
            _remove(target)
        unfinished.rename(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    sync_folder(run_folder)
    return target


def newest_checkpoint(run_folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest complete checkpoint of a run, and a sentence about each damaged one that was passed over."""
    problems: list[str] = []
    for folder in sorted(run_folder.glob(f"{_PREFIX}*"), reverse=True):
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
    verify_manifest(folder, rebuild="foundry run")
    return Checkpoint(
        folder=folder,
        weights=load_file(folder / _WEIGHTS),
        moments=load_file(folder / _OPTIMIZER),
        random=read_artefact(folder / _RANDOM, "random_states"),
        state=read_artefact(folder / _STATE, "checkpoint_state"),
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


def prune(run_folder: Path, *, keep: int) -> None:
    """Remove all but the newest checkpoints."""
    for folder in sorted(run_folder.glob(f"{_PREFIX}*"))[:-keep]:
        _remove(folder)


def _remove(folder: Path) -> None:
    doomed = folder.with_name(f"{_UNFINISHED}old-{folder.name}")  # half of a checkpoint never has a checkpoint's name
    folder.rename(doomed)
    shutil.rmtree(doomed)


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
        for kind, tensor in optimizer.state[parameter].items()
    }


def _random_states() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
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
