"""Several processes that train one model: how many there are, what they tell each other, how gradients come together.

The rows of each step are dealt out to the processes, which are called ranks. What a step is made of does not depend on
how many share it: the batches are those that one process would take, and the loss is divided by the tokens of the whole
step. `World` is a process on its own; of `Replicas` (ddp) each rank holds the whole model, of `Shards` (fsdp) a part.

The gradients of replicas are added up once a step, after the last backward pass, and not by hooks inside of it: a rank
that runs out of memory there can still say so, and all of them take the step again in smaller pieces.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from pipeline import ranks
from pipeline.errors import LostRankError, TrainingError

Strategy = Literal["single", "ddp", "fsdp"]
T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)

STRATEGIES: dict[str | None, Strategy] = {  # what a spec says → what is done where there are several devices
    "auto": "ddp",
    None: "ddp",
    "ddp": "ddp",
    "dp": "ddp",
    "fsdp": "fsdp",
    "fsdp_native": "fsdp",
}
_TIMEOUT_VARIABLE, _TIMEOUT_SECONDS = "FOUNDRY_RANK_TIMEOUT", "600"
# How long ranks wait while the first one evaluates or saves. Should it die, the launcher ends them.
_PATIENCE = timedelta(days=1)
_BUCKET_BYTES = 25_000_000  # gradients that travel together; enough that a message's fixed cost does not show
# What gloo and NCCL say when another process has gone or is stuck.
_SILENCE = (
    "closed by peer", "reset by peer", "broken pipe", "timed out", "timeout", "failed to recv", "nccl",
    "clients joined",
)  # fmt: skip


@dataclass(frozen=True)
class Arrangement:
    """How a run is laid out.

    Attributes:
        strategy: `single`, `ddp` or `fsdp`.
        processes: on each machine.
        device: `cpu` or `cuda`.
        shares: how often `training.batch_size` rows make up a batch: once for each device that the spec asks for.
            None: the spec leaves that to whoever starts the run.
        numbers: of the CUDA devices to use; empty takes the first ones.
        warnings: sentences for the user.
    """

    strategy: Strategy
    processes: int
    device: Literal["cpu", "cuda"]
    shares: int | None
    numbers: tuple[int, ...]
    warnings: tuple[str, ...]


def arrange(
    *,
    strategy: str | None,
    devices: int | str | list[int] | None,
    num_nodes: int,
    device: str,
    cuda_devices: int,
    processors: int,
    notebook: bool,
) -> Arrangement:
    """Decide how a run is laid out, from the spec and from what this machine has.

    Args:
        strategy: `hardware.strategy` of the spec, and likewise `devices`, `num_nodes` and `device`.
        devices: a count, numbers of CUDA devices, or `auto` or None for what is there.
        num_nodes: machines.
        device: `auto`, `cpu` or `cuda`.
        cuda_devices: CUDA devices of this machine.
        processors: CPUs that this process may use.
        notebook: whether this is a notebook, whose kernel cannot be one of several processes, and may not start them.

    Raises:
        TrainingError: the spec asks for CUDA devices that are not there.
    """
    on_cuda = device == "cuda" or (device == "auto" and cuda_devices > 0)
    if on_cuda and not cuda_devices:
        raise TrainingError("hardware.device is cuda, but torch finds no CUDA device", hint="set it to auto or cpu")
    kind: Literal["cpu", "cuda"] = "cuda" if on_cuda else "cpu"
    named = strategy not in ("auto", None)
    here, numbers = _devices_here(devices, on_cuda=on_cuda, named=named, cuda_devices=cuda_devices)
    shares = None if devices in ("auto", None) and not named else here * num_nodes
    several = here * num_nodes > 1
    if notebook and several:
        warning = "in a notebook training runs in one process: set ALLOW_NOTEBOOK_DDP=1 to start others from here"
        return Arrangement("single", 1, kind, shares, numbers[:1], (warning,))
    if not several:
        warning = f"strategy {strategy} has one device to work with: training runs in one process, as with auto"
        return Arrangement("single", 1, kind, shares, numbers, (warning,) if named else ())
    warnings = []
    if STRATEGIES[strategy] == "fsdp" and not on_cuda:
        warnings.append("fsdp without several GPUs saves memory in each process, but no time")
    if not on_cuda and here > processors:
        warnings.append(f"{here} processes share {processors} processors and take turns: fewer devices are faster")
    return Arrangement(STRATEGIES[strategy], here, kind, shares, numbers, tuple(warnings))


def _devices_here(
    devices: int | str | list[int] | None, *, on_cuda: bool, named: bool, cuda_devices: int
) -> tuple[int, tuple[int, ...]]:
    """How many devices of this machine to use, and their numbers where the spec gives them."""
    if isinstance(devices, list):
        if missing := [number for number in devices if number >= cuda_devices]:
            hint = "set hardware.devices to auto, or to numbers from 0 on that `nvidia-smi` shows"
            raise TrainingError(f"hardware.devices names the CUDA device {missing[0]}, which is not there", hint=hint)
        return len(devices), tuple(devices)
    if not isinstance(devices, int):
        return (cuda_devices if on_cuda and named else 1), ()
    if on_cuda and devices > cuda_devices:
        raise TrainingError(
            f"hardware.devices asks for {devices} CUDA devices, and this machine has {cuda_devices}",
            hint=f"start with `torchrun --nproc-per-node {cuda_devices} -m pipeline.stages.train`: it shares the same "
            "batches among fewer processes",
        )
    return devices, ()


class World:
    """The processes that train together. This one is alone: there is nobody to tell anything."""

    rank = 0
    size = 1
    strategy: Strategy = "single"
    can_retry = True  # a step whose memory ran out

    @property
    def is_first(self) -> bool:
        """Whether this rank prints, records and writes."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This rank's part of the (B, …) rows of a batch: as equal as can be, in the order of the ranks."""
        return rows[len(rows) * self.rank // self.size : len(rows) * (self.rank + 1) // self.size]

    def largest_share(self, rows: int) -> int:
        """Most rows of a batch of `rows` that any rank gets."""
        return -(-rows // self.size)

    def sum(self, *values: float) -> Sequence[float]:
        """Each value added up over all ranks."""
        return values

    def largest(self, value: int) -> int:
        """The largest value of any rank."""
        return value

    def from_first(self, work: Callable[[], T]) -> T:
        """What the first rank's work returns (anything that JSON can say), for all; the others wait for it."""
        return work()

    def draw_anew(self, *place: int) -> None:
        """Let ranks draw different random numbers, each a pure function of seed, rank and place in the data."""

    def spread(self, model: nn.Module) -> None:
        """Give this rank its copy or its part of a model that every rank has built alike."""

    def before_backward(self, model: nn.Module, *, last: bool) -> None:
        """Say that a backward pass follows, and whether it is the last of its step."""

    def add_up(self, model: nn.Module) -> None:
        """Make every gradient the sum of those of all ranks."""

    def whole(self, model: M) -> M:
        """A model that the first rank can use alone, to evaluate and to write. All ranks call this together."""
        return model

    def whole_tensor(self, tensor: Tensor) -> Tensor:
        """A weight, gradient or moment in one piece. All ranks call this together."""
        return tensor

    def as_part(self, tensor: Tensor, weight: Tensor) -> Tensor:
        """This rank's part of what belongs to a weight and is in one piece in every rank; on the weight's device."""
        return tensor.to(weight.device)

    def leave(self) -> None:
        """End the connection to the other ranks."""


ALONE = World()


class Replicas(World):
    """One of several ranks that each hold the whole model.

    Args:
        device: `cpu` or `cuda`.
        seed: of the run.

    Raises:
        LostRankError: the ranks do not find each other in time.
    """

    strategy: Strategy = "ddp"

    def __init__(self, device: str, *, seed: int) -> None:
        self._device, self._seed = device, seed
        with talking():
            self._store, self.rank, self.size = next(rendezvous("env://", timeout=timeout()))
            dist.init_process_group(
                "nccl" if device == "cuda" else "gloo",
                store=self._store,
                rank=self.rank,
                world_size=self.size,
                timeout=timeout(),
            )
        self._told = 0  # how often the first rank has told the others something

    def sum(self, *values: float) -> Sequence[float]:
        """Each value added up over all ranks."""
        tensor = torch.tensor(values, dtype=torch.float64, device=self._device)
        with talking():
            dist.all_reduce(tensor)
        summed: list[float] = tensor.tolist()
        return summed

    def largest(self, value: int) -> int:
        """The largest value of any rank."""
        tensor = torch.tensor(value, device=self._device)
        with talking():
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return int(tensor.item())

    def from_first(self, work: Callable[[], T]) -> T:
        """What the first rank's work returns (anything that JSON can say), for all; the others wait for it."""
        self._told += 1
        name = f"told/{self._told}"
        if self.is_first:
            value = work()
            self._store.set(name, json.dumps(value))
            return value
        with talking():
            self._store.wait([name], _PATIENCE)
        told: T = json.loads(self._store.get(name))
        return told

    def draw_anew(self, *place: int) -> None:
        """Let ranks draw different random numbers, each a pure function of seed, rank and place in the data."""
        state = np.random.SeedSequence([self._seed, *place, self.rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]) >> 1)

    def spread(self, model: nn.Module) -> None:
        """Give every rank the first one's weights, should they have been built on unlike machines."""
        with talking():
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, src=0)

    def add_up(self, model: nn.Module) -> None:
        """Make every gradient the sum of those of all ranks."""
        gradients = [_gradient(parameter) for parameter in model.parameters() if parameter.requires_grad]
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            with talking():
                dist.all_reduce(flat)
            for gradient, summed in zip(bucket, torch.split(flat, [each.numel() for each in bucket]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def leave(self) -> None:
        """End the connection to the other ranks."""
        dist.destroy_process_group()


def join(arrangement: Arrangement, *, strategy: str | None, seed: int) -> World:
    """Take this process's place among those that a launcher started; alone if there are no others.

    Args:
        arrangement: from `arrange`.
        strategy: of the spec, for a launcher that started several processes where the spec has one device.
        seed: of the run.

    Raises:
        TrainingError: there are more processes than devices.
        LostRankError: the ranks do not find each other in time.
    """
    if arrangement.device == "cuda":
        numbers = arrangement.numbers or range(torch.cuda.device_count())
        if ranks.processes_here() > len(numbers):
            message = f"{ranks.processes_here()} processes were started here for {len(numbers)} CUDA devices"
            raise TrainingError(message, hint=f"start {len(numbers)} of them, or change hardware.devices")
        torch.cuda.set_device(numbers[ranks.local_rank()])
    if ranks.world_size() == 1:
        return World()
    if STRATEGIES[strategy] == "ddp":
        return Replicas(arrangement.device, seed=seed)
    from pipeline.training.shards import Shards  # noqa: PLC0415 - loads parts of torch that take a second

    return Shards(arrangement.device, seed=seed)


def timeout() -> timedelta:
    """How long a rank waits for the others within a step.

    Raises:
        TrainingError: FOUNDRY_RANK_TIMEOUT is not a number of seconds.
    """
    text = os.environ.get(_TIMEOUT_VARIABLE, _TIMEOUT_SECONDS)
    if not text.isdecimal() or int(text) == 0:
        hint = f"set it to a whole number of seconds, or leave it out for {_TIMEOUT_SECONDS}"
        raise TrainingError(f"{_TIMEOUT_VARIABLE} is {text!r}", hint=hint)
    return timedelta(seconds=int(text))


@contextmanager
def talking() -> Iterator[None]:
    """Say plainly when another rank has gone in the middle of the block.

    Raises:
        LostRankError: it has ended or has not answered in time.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(phrase in str(error).lower() for phrase in _SILENCE):
            raise
        raise LostRankError(
            "another process of this run has ended, or has not answered in time",
            hint="run the same command again: training goes on from its last checkpoint",
        ) from error


def _gradient(parameter: Tensor) -> Tensor:
    """A weight's gradient; zeros where this rank's rows gave none."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients of one type in groups that travel together."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        nbytes = gradient.numel() * gradient.element_size()
        if bucket and (size + nbytes > _BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += nbytes
    if bucket:
        yield bucket


def share_of_threads(processors: int) -> int:
    """CPU threads of each rank, so that those on one machine do not take processors from each other."""
    return max(1, processors // ranks.processes_here())


def agreed(world: World, value: Any, what: str) -> None:
    """Insist that all ranks know the same.

    Args:
        world: the ranks.
        value: anything that JSON can say.
        what: its name, for the message.

    Raises:
        TrainingError: this rank knows something else than the first one.
    """
    first = world.from_first(lambda: value)
    differing, _ = world.sum(float(first != value), 0.0)
    if differing:
        raise TrainingError(
            f"the processes of this run do not see the same {what}",
            hint="on several machines, set FOUNDRY_WORK to a folder that all of them share",
        )
