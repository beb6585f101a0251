"""Measure what memory that runs out does to the weights.

    python tests/reliability/memory.py [--write docs/reliability.md]

Training runs out of memory in the forward pass, in the backward pass and in the optimizer's step, under each name that
libraries have for it, until its micro-batches are small enough; and once for real, under a limit of the operating
system. After 20 steps the weights are compared with those of a run that had memory enough. Prints a table; exits 1 if a
difference is beyond its bound.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from invariance import BOUNDS, ROWS, Difference, Loss, Step, difference, trained, within
from tables import publish, table
from torch import Tensor, nn

NAME = "out of memory"
STEPS = 20
BOUND = BOUNDS["32-true", STEPS]
NOTHING = Difference(0.0, 0.0)
CPU = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."
CUDA = "CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has a total capacity of 79.11 GiB."
ERRORS: dict[str, Callable[[], Exception]] = {
    "RuntimeError of the CPU allocator": lambda: RuntimeError(CPU),
    "torch.OutOfMemoryError": lambda: torch.OutOfMemoryError(CUDA),
    "MemoryError": MemoryError,
}
_MB = 1 << 20
_ROOM_MB = 220  # beyond what the child has before it trains: for a micro-batch of 8 rows, not for one of 16


class _FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, error: Callable[[], Exception]) -> Tensor:
        ctx.error = error
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *_gradients: Any) -> Any:
        raise ctx.error()


def short_of_memory(loss: Loss, *, rows: int, where: str, error: Callable[[], Exception]) -> Loss:
    """The loss on a machine whose memory is enough for so many rows."""

    def limited(ids: Tensor, targets: Tensor) -> Tensor:
        if len(ids) <= rows:
            return loss(ids, targets)
        if where == "forward":
            raise error()
        failing: Tensor = _FailsBackward.apply(loss(ids, targets), error)  # type: ignore[no-untyped-call]
        return failing

    return limited


def short_at(calls: set[int], *, error: Callable[[], Exception]) -> Callable[[Step], None]:
    """The optimizer's step, on a machine whose memory runs out at some calls, before anything was changed."""
    count = iter(range(1, 1000))

    def limited(step: Step) -> None:
        if next(count) in calls:
            raise error()
        step()

    return limited


def injected() -> list[tuple[str, str, list[int], Difference, Difference]]:
    """Where memory ran out, under which name, the rows that were left, the difference in the end, its bound."""
    whole = trained(1, ROWS, steps=STEPS)
    found = []
    for name, error in ERRORS.items():
        for where in ("forward", "backward"):
            for rows in (8, 1):
                short = partial(short_of_memory, rows=rows, where=where, error=error)
                run = trained(1, ROWS, steps=STEPS, around_loss=short)
                found.append((f"{where} pass", name, run[2], difference(run, whole), BOUND))
        run = trained(1, ROWS, steps=STEPS, optimizer_step=short_at({1, 4, 9}, error=error))
        found.append(("optimizer, three times", name, run[2], difference(run, whole), NOTHING))
    return found


def limited_by_the_system() -> tuple[list[int], Difference]:
    """Train in a child process under RLIMIT_AS: the rows that were left, and the difference from a run without it."""
    done = subprocess.run([sys.executable, __file__, "--child"], stdout=subprocess.PIPE, check=True, text=True)
    limited = json.loads(done.stdout)
    whole = trained(1, ROWS, steps=2)
    return limited["rows"], difference((torch.tensor(limited["before"]), torch.tensor(limited["after"]), None), whole)


def child() -> None:
    """Train with a layer that needs about 16 MB for each row; print the weights and the rows that were left."""
    torch.set_num_threads(1)
    grows = nn.Linear(1, 1 << 22)

    def hungry(loss: Loss) -> Loss:
        def fed(ids: Tensor, targets: Tensor) -> Tensor:
            return loss(ids, targets) + 0.0 * grows(torch.zeros(len(ids), 1)).sum()

        return fed

    trained(ROWS, 1, steps=1)  # threads and kernels take their memory now
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _ROOM_MB * _MB,) * 2)
    before, after, rows = trained(1, ROWS, steps=2, around_loss=hungry)
    json.dump({"before": before.tolist(), "after": after.tolist(), "rows": rows}, sys.stdout)


def main() -> None:
    """Read the command line, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="a document that has a place for the table")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child()
        return
    torch.set_num_threads(1)
    found = injected()
    if sys.platform == "linux":
        rows, apart = limited_by_the_system()
        found.append(("limit of the system (RLIMIT_AS)", "whatever torch raises", rows, apart, BOUND))
    beyond = sum(not within(apart, bound) for *_, apart, bound in found)
    text = table(
        ("memory runs out in", "as", "rows of a micro-batch", "largest difference", "bound"),
        (
            (where, name, " → ".join(map(str, [ROWS, *rows])), f"{apart.largest:.1e}", f"{bound.largest:.0e}")
            for where, name, rows, apart, bound in found
        ),
    )
    publish(NAME, text, chosen.write)
    sys.exit(beyond > 0)


if __name__ == "__main__":
    main()
