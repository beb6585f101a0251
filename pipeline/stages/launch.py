"""Starts the ranks of a training run on this machine, through torchrun's elastic launcher, and answers for them.

The stage stays above them: its process is the one that DVC started, that the status file names, that signals reach. It
passes SIGTERM and Ctrl-C on, and ends as the rank that failed first. The ranks die with it.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import psutil

from pipeline import console, ranks
from pipeline.errors import ExitCode, FoundryError, Interrupted, Preempted, TrainingError

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    from pipeline.spec import Spec
    from pipeline.training.distributed import Arrangement

_HINT = "run the same command again: training goes on from its last checkpoint"
_STOPS: Mapping[int, type[FoundryError]] = {ExitCode.PREEMPTED: Preempted, ExitCode.INTERRUPTED: Interrupted}
_STOPPED_BY = {signal.SIGTERM: ExitCode.PREEMPTED, signal.SIGINT: ExitCode.INTERRUPTED}


def arrangement_of(spec: Spec) -> Arrangement:
    """How a run of a spec is laid out on this machine.

    Raises:
        TrainingError: the spec asks for CUDA devices that are not there.
    """
    import torch

    from pipeline.training.distributed import arrange
    from pipeline.training.hardware import usable_processors

    hardware = spec.section("hardware")
    return arrange(
        **{name: hardware[name] for name in ("strategy", "devices", "num_nodes", "device")},
        cuda_devices=torch.cuda.device_count(),
        processors=usable_processors(),
        notebook=ranks.in_notebook() and os.environ.get("ALLOW_NOTEBOOK_DDP") != "1",
    )


def launch(arrangement: Arrangement, arguments: Sequence[str], *, num_nodes: int) -> None:
    """Run the train stage in several processes and wait for the end.

    Args:
        arrangement: how many.
        arguments: the stage's command line.
        num_nodes: machines that the spec asks for.

    Raises:
        FoundryError: a rank failed or was killed, all of them were asked to stop, or more than this machine is needed.
    """
    if num_nodes > 1:
        start = f"torchrun --nnodes {num_nodes} --nproc-per-node {arrangement.processes} -m pipeline.stages.train"
        message = f"hardware.num_nodes is {num_nodes}, and a machine cannot start training on the others"
        raise TrainingError(message, hint=f"start `{start}` on each of them (docs/scale.md)")
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for warning in arrangement.warnings:
        console.warn(warning)
    os.environ |= ranks.marked_as_ours()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=arrangement.processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # any free port
        local_addr="localhost",
        max_restarts=0,  # a new start of the same command goes on from the last checkpoint
        signals_to_handle="SIGQUIT",  # the others are passed on below, and the ranks end by themselves
    )
    for part in ("agent.server.api", "multiprocessing.api"):  # they report what we say ourselves, and in our words
        logging.getLogger(f"torch.distributed.elastic.{part}").setLevel(logging.CRITICAL)
    with _passing_signals_on() as received:
        try:
            elastic_launch(config, sys.executable)("-m", "pipeline.stages.train", *arguments)
        except ChildFailedError as error:
            raise cause(error.failures, received[0] if received else None) from error


def cause(failures: Mapping[int, ProcessFailure], received: int | None) -> FoundryError:
    """Why a run ended, from what its ranks left behind.

    Args:
        failures: rank → how it ended, for those that did not end with 0.
        received: the signal that the stage has passed on to them, if any.
    """
    told = {rank: failure.error_file_data for rank, failure in failures.items() if "code" in failure.error_file_data}
    for rank, word in sorted(told.items()):
        if word["is_cause"] and word["code"] not in _STOPS:
            return TrainingError(word["message"] if rank == 0 else f"rank {rank}: {word['message']}", hint=word["hint"])
    for word in told.values():
        if word["code"] in _STOPS:
            return _STOPS[word["code"]](word["message"], hint=word["hint"])
    if received is not None:
        name = signal.Signals(received).name
        return _STOPS[_STOPPED_BY[signal.Signals(received)]](f"stopped by {name} before training began", hint=_HINT)
    by_launcher = -signal.SIGTERM  # sent to those that were left
    killed = sorted(
        (rank for rank in failures if rank not in told), key=lambda rank: failures[rank].exitcode == by_launcher
    )
    if not killed:  # each waits for another: one of them is stuck
        return TrainingError(next(iter(told.values()))["message"], hint=_HINT)
    failure = failures[killed[0]]
    how = f"was killed by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with {failure.exitcode}"
    message = f"rank {killed[0]} (process {failure.pid}) {how} before it could say why; memory may have run out"
    return TrainingError(message, hint=_HINT)


@contextmanager
def _passing_signals_on() -> Iterator[list[int]]:
    """Pass SIGTERM and Ctrl-C on to the ranks, which save and end; a second Ctrl-C ends them at once."""
    received: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if not received:
            os.write(2, b"\nstopping after this step, with a checkpoint ...\n")  # print may be at work right now
        again = bool(received) and number == signal.SIGINT
        received.append(number)
        for child in psutil.Process().children():
            child.send_signal(signal.SIGKILL if again else number)

    old = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
