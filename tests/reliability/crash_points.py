"""Kill a process at every operating-system call of saving and removing checkpoints, and see what a run finds then.

    python tests/reliability/crash_points.py [--every N] [--write docs/reliability.md]

A child process does the work and is traced (ptrace, Linux only). It is killed with SIGKILL right before its first call
to the kernel; another one before its second; and so on until one gets to its end. Nothing can happen to files between
two calls, so these are all the states that a kill can leave. After each kill the run folder is locked, as by a run that
goes on: then there must be no leftovers, and the newest checkpoint must be whole and hold the weights of its step.
Prints a table; exits 1 at the first state that is not so.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tables import publish, table
from tiny_runs import TinyRun

from pipeline.training.run_folder import checkpoints_in, locked, prune

NAME = "crash points"
_TRACEME, _SYSCALL, _SETOPTIONS = 0, 24, 0x4200  # <sys/ptrace.h>
_MARK_CALLS, _DIE_WITH_TRACER = 0x1, 0x100000  # options
_AT_A_CALL = signal.SIGTRAP | 0x80
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_LIBC.ptrace.restype = ctypes.c_long


@dataclass(frozen=True)
class Work:
    """Something that can be killed.

    Attributes:
        title: as the table shows it.
        prepare: makes the run folder as it is before.
        do: what is killed.
        allowed: steps that a run may go on from after a kill; None: it begins anew.
    """

    title: str
    prepare: Callable[[Path], None]
    do: Callable[[Path], None]
    allowed: frozenset[int | None]


class TraceError(Exception):
    """The kernel does not let this process trace its children."""


def calls_survived(work: Work, tiny: TinyRun, scratch: Path, *, every: int) -> Counter[int | None]:
    """Kill the work before its first call and before each `every`th after that.

    Returns:
        Step that a run would go on from → after how many of the kills.

    Raises:
        AssertionError: after a kill a run would find something that it must not.
        TraceError: tracing is forbidden here.
    """
    before = scratch / "before"
    before.mkdir()
    work.prepare(before)
    warm = scratch / "warm"
    shutil.copytree(before, warm)
    work.do(warm)  # here, so that what is done once in a process (imports, schemas) is not traced in every child
    survived: Counter[int | None] = Counter()
    call = 1
    killed = True
    while killed:
        run_folder = scratch / "run"
        shutil.copytree(before, run_folder)
        killed = _kill_at(call, work.do, run_folder)
        with locked(run_folder):
            assert not list(run_folder.glob(".tmp-*")), f"call {call}: leftovers"
            step, problems = tiny.resumed_step(run_folder)
        assert not problems, f"call {call}: {problems}"
        assert step in work.allowed, f"call {call}: goes on from step {step}"
        survived[step] += killed
        shutil.rmtree(run_folder)
        call += every
    shutil.rmtree(before)
    shutil.rmtree(warm)
    return survived


def _kill_at(call: int, do: Callable[[Path], None], run_folder: Path) -> bool:
    """Do the work in a child and kill that before a call, counted from 1; false when it has fewer."""
    child = os.fork()
    if child == 0:
        if _LIBC.ptrace(_TRACEME, 0, None, None) != 0:
            os._exit(2)
        os.kill(os.getpid(), signal.SIGSTOP)  # until the parent is ready
        try:
            do(run_folder)
        except BaseException:  # noqa: BLE001 - whatever it is, the parent must not go on twice
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSTOPPED(status) or _LIBC.ptrace(_SETOPTIONS, child, None, _MARK_CALLS | _DIE_WITH_TRACER) != 0:
        raise TraceError("ptrace is forbidden here")
    stops = 0
    forwarded = 0
    while True:
        _LIBC.ptrace(_SYSCALL, child, None, forwarded)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the work failed by itself"
            return False
        assert os.WIFSTOPPED(status), status
        forwarded = 0 if os.WSTOPSIG(status) == _AT_A_CALL else os.WSTOPSIG(status)
        stops += os.WSTOPSIG(status) == _AT_A_CALL
        if stops == 2 * call - 1:  # each call stops twice, before it and after it; the child has done none but these
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return True


def works(tiny: TinyRun) -> list[Work]:
    """What is killed."""

    def save(run_folder: Path, *steps: int, keep: int) -> None:
        with locked(run_folder):
            tiny.save(run_folder, *steps, keep_last_n=keep)

    def remove(run_folder: Path) -> None:
        with locked(run_folder):
            prune(run_folder, keep={max(checkpoints_in(run_folder))})

    def leave_half_a_checkpoint(run_folder: Path) -> None:
        save(run_folder, 1, 2, keep=2)
        shutil.copytree(run_folder / "checkpoint-00000002", run_folder / ".tmp-checkpoint-00000003")

    def lock(run_folder: Path) -> None:
        with locked(run_folder):
            pass

    return [
        Work("the first save of a run", lambda _: None, lambda run: save(run, 1, keep=1), frozenset({None, 1})),
        Work(
            "a save that removes the two checkpoints before it",
            lambda run: save(run, 1, 2, keep=2),
            lambda run: save(run, 3, keep=1),
            frozenset({2, 3}),
        ),
        Work("removing two of three checkpoints", lambda run: save(run, 1, 2, 3, keep=3), remove, frozenset({3})),
        Work("clearing what a killed save left", leave_half_a_checkpoint, lock, frozenset({2})),
    ]


def main() -> int:
    """Kill, look, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1, help="kill at each Nth call only")
    parser.add_argument("--write", type=Path, help="put the table into this document")
    arguments = parser.parse_args()
    tiny = TinyRun()
    rows = []
    for work in works(tiny):
        with tempfile.TemporaryDirectory(prefix="foundry-crash-") as scratch:
            try:
                survived = calls_survived(work, tiny, Path(scratch), every=arguments.every)
            except TraceError as error:
                print(error, file=sys.stderr)
                return 77
        found = ", ".join(
            f"step {step} {count}x" if step is not None else f"no checkpoint yet {count}x"
            for step, count in sorted(survived.items(), key=lambda item: item[0] or 0)
            if count
        )
        rows.append((work.title, survived.total(), found))
    text = table(("killed at every call of", "kills", "a run then goes on from"), rows)
    total = sum(count for _, count, _ in rows)
    text += f"\n{total:,} kills, and every time a run found a whole checkpoint and no leftovers.\n"
    publish(NAME, text, arguments.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
