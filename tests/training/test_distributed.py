"""How a run is laid out, what ranks tell each other, and what a stage makes of how they ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.errors import Interrupted, LostRankError, Preempted, TrainingError
from pipeline.stages.launch import cause, launch
from pipeline.training import distributed
from pipeline.training.distributed import World, arrange, talking, timeout

pytestmark = pytest.mark.unit


def laid_out(**changes: Any) -> distributed.Arrangement:
    """What is done about settings on a machine of two processors without GPUs, but for the changes."""
    asked = {"strategy": "auto", "devices": "auto", "num_nodes": 1, "device": "auto"}
    machine = {"cuda_devices": 0, "processors": 2, "notebook": False}
    return arrange(**{**asked, **machine, **changes})


@pytest.mark.parametrize(
    ("changes", "strategy", "processes", "shares"),
    [
        ({}, "single", 1, None),
        ({"cuda_devices": 8}, "single", 1, None),
        ({"devices": 2}, "ddp", 2, 2),
        ({"devices": 2, "strategy": None}, "ddp", 2, 2),
        ({"devices": 2, "strategy": "dp"}, "ddp", 2, 2),
        ({"devices": 4, "strategy": "fsdp_native", "cuda_devices": 4}, "fsdp", 4, 4),
        ({"strategy": "ddp", "cuda_devices": 8}, "ddp", 8, 8),
        ({"strategy": "ddp", "devices": [5, 1], "cuda_devices": 8}, "ddp", 2, 2),
        ({"strategy": "ddp", "devices": 2, "num_nodes": 3}, "ddp", 2, 6),
        ({"devices": 2, "cuda_devices": 1, "device": "cpu"}, "ddp", 2, 2),
    ],
    ids=str,
)
def test_a_run_is_laid_out_as_the_spec_says_on_what_is_there(
    changes: dict[str, Any], strategy: str, processes: int, shares: int | None
) -> None:
    found = laid_out(**changes)

    assert (found.strategy, found.processes, found.shares) == (strategy, processes, shares)
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("changes", "strategy", "warning"),
    [
        ({"strategy": "ddp", "devices": 1}, "single", "strategy ddp has one device to work with"),
        ({"strategy": "fsdp"}, "single", "strategy fsdp has one device to work with"),
        ({"strategy": "fsdp", "devices": 2}, "fsdp", "fsdp without several GPUs saves memory"),
        ({"devices": 4}, "ddp", "4 processes share 2 processors"),
        ({"devices": 2, "notebook": True}, "single", "set ALLOW_NOTEBOOK_DDP=1"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_done_otherwise_with_a_warning(
    changes: dict[str, Any], strategy: str, warning: str
) -> None:
    found = laid_out(**changes)

    assert found.strategy == strategy
    assert [warning in said for said in found.warnings] == [True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": 4, "cuda_devices": 2}, "asks for 4 CUDA devices, and this machine has 2"),
        ({"devices": [0, 3], "cuda_devices": 2}, "names the CUDA device 3, which is not there"),
        ({"device": "cuda"}, "torch finds no CUDA device"),
    ],
    ids=str,
)
def test_devices_that_are_not_there_are_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        laid_out(**changes)


@pytest.mark.parametrize(("rows", "size"), [(8, 2), (7, 2), (1, 3), (12, 5)])
def test_each_row_of_a_batch_goes_to_one_rank(rows: int, size: int) -> None:
    worlds = [World() for _ in range(size)]
    for rank, world in enumerate(worlds):
        world.rank, world.size = rank, size
    batch = torch.arange(rows)

    parts = [world.share(batch) for world in worlds]

    assert torch.equal(torch.cat(parts), batch)
    assert max(map(len, parts)) == worlds[0].largest_share(rows)


@pytest.mark.parametrize("text", ["0", "-1", "ten", "1.5", ""])
def test_a_time_out_that_is_no_number_of_seconds_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("FOUNDRY_RANK_TIMEOUT", text)

    with pytest.raises(TrainingError, match="FOUNDRY_RANK_TIMEOUT is"):
        timeout()


def test_a_lost_connection_is_named_and_other_errors_are_not_hidden() -> None:
    with pytest.raises(LostRankError, match="has ended, or has not answered"), talking():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1")
    with pytest.raises(RuntimeError, match="a shape does not fit"), talking():
        raise RuntimeError("a shape does not fit")


def ended(exitcode: int, **told: Any) -> Any:
    """How a rank ended: what the launcher keeps of it."""
    word = {"message": "it broke", "hint": "mend it", "is_cause": True, **told} if told else {}
    name = signal.Signals(-exitcode).name if exitcode < 0 else ""
    return SimpleNamespace(pid=7, exitcode=exitcode, error_file_data=word, signal_name=lambda: name)


LOST = {"code": 4, "is_cause": False, "message": "another process of this run has ended"}


@pytest.mark.parametrize(
    ("failures", "received", "kind", "message"),
    [
        ({0: ended(4, **LOST), 1: ended(4, code=4)}, None, TrainingError, "rank 1: it broke"),
        ({0: ended(4, code=4), 1: ended(4, **LOST)}, None, TrainingError, "it broke"),
        ({0: ended(4, **LOST), 1: ended(-9)}, None, TrainingError, "rank 1 (process 7) was killed by SIGKILL"),
        ({0: ended(-15), 1: ended(-9)}, None, TrainingError, "rank 1 (process 7) was killed by SIGKILL"),
        ({0: ended(4, **LOST)}, None, TrainingError, "another process of this run has ended"),
        ({0: ended(75, code=75), 1: ended(75, code=75)}, 15, Preempted, "it broke"),
        ({0: ended(130, code=130)}, 2, Interrupted, "it broke"),
        ({0: ended(-15), 1: ended(-15)}, 15, Preempted, "stopped by SIGTERM before training began"),
        ({0: ended(75, code=75), 1: ended(4, code=4)}, 15, TrainingError, "rank 1: it broke"),
    ],
)
def test_a_stage_ends_as_the_rank_that_failed_first(
    failures: dict[int, Any], received: int | None, kind: type[Exception], message: str
) -> None:
    error = cause(failures, received)

    assert type(error) is kind
    assert str(error).startswith(message)


def test_several_machines_are_not_started_from_one() -> None:
    arrangement = laid_out(strategy="ddp", devices=2, num_nodes=2)

    with pytest.raises(TrainingError, match="num_nodes is 2") as caught:
        launch(arrangement, [], num_nodes=2)

    assert "torchrun --nnodes 2 --nproc-per-node 2 -m pipeline.stages.train" in caught.value.hint


TALK = """
    import os, sys, torch
    from pipeline.errors import TrainingError
    from pipeline.training.distributed import Replicas, agreed
    from pipeline.training.step import Stepper

    world = Replicas("cpu", seed=1)
    rank = world.rank
    assert list(world.sum(rank + 1.0, 0.5)) == [3.0, 1.0]
    assert world.largest(15 * rank) == 15
    assert world.from_first(lambda: {"val_loss": 0.1}) == {"val_loss": 0.1}

    model = torch.nn.Linear(3, 1, bias=False)
    torch.nn.init.constant_(model.weight, float(rank))
    world.spread(model)
    assert model.weight.sum() == 0  # the first one's

    world.draw_anew(0, 4)
    mine = torch.rand(1).item()
    assert world.sum(mine)[0] != 2 * mine  # other numbers in the other rank

    class Rows:  # the second rank has memory for one row at a time
        per_epoch = 1
        def batch(self, epoch, index):
            return (torch.arange(12.0).view(4, 3),)
        def targets_in(self, epoch, index):
            return 4

    def loss(rows):
        if rank == 1 and len(rows) > 1:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")
        return model(rows).sum()

    from pipeline.training.precision import LossScale
    shrunk = []
    stepper = Stepper(model, torch.optim.SGD(model.parameters(), lr=0.1), Rows(), loss, max_grad_norm=None, rows=None,
                      on_smaller=shrunk.append, scale=LossScale("cpu", enabled=False), world=world)
    found = stepper.gradients(0, range(1))
    assert shrunk == [1], shrunk  # in both ranks
    assert torch.allclose(model.weight.grad, torch.arange(12.0).view(4, 3).mean(0)), model.weight.grad
    assert found.tokens == 4

    agreed(world, 5, "checkpoints")
    try:
        agreed(world, rank, "checkpoints")
    except TrainingError as error:
        assert "do not see the same checkpoints" in str(error)
    else:
        sys.exit("they agreed")
    world.leave()
"""


def test_ranks_agree_on_sums_stops_random_numbers_and_on_memory_that_ran_out() -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(TALK)],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]

    said = [rank.communicate(timeout=120)[1] for rank in ranks]

    assert [rank.returncode for rank in ranks] == [0, 0], said
