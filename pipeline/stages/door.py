"""What every stage does around its work: check the spec, say how it is going, end with the right exit code."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from pipeline import console, ranks
from pipeline.errors import (
    EXIT_CODE_OF,
    ExitCode,
    FoundryError,
    Interrupted,
    LostRankError,
    Preempted,
    is_disk_full,
    is_out_of_memory,
)
from pipeline.files import write_artefact, write_json
from pipeline.paths import is_registered_name, status_file
from pipeline.spec import Spec, SpecError, load_spec, require_supported

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_PARENT_AT_START = os.getppid()


class StageCommand(click.Command):
    """A command whose usage errors end with 1: Click's own 2 means here that the corpus stage failed."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.show()
            sys.exit(ExitCode.PREREQUISITES)


@contextmanager
def stage(name: str, spec_path: Path) -> Iterator[Spec]:
    """Run a stage's work on a checked spec, and end the process as the exit code table says.

    DVC reports every failed stage as 255, so the outcome also goes to `.work/status/<stage>.json`,
    where `foundry run` reads it. Of several processes that train together, the first one speaks for all, unless the
    stage itself has started them.
    """
    die_with_parent()
    if ranks.rank() > 0:
        console.mute()
    signal.signal(signal.SIGTERM, _preempt)
    started = time.monotonic()
    try:
        with _understood():
            _write_status(name, phase="running", code=None, started=started)
            spec = load_spec(spec_path)
            require_supported(spec, name)
        with _recorded(name, spec_path, started), _understood():
            yield spec
        with _understood():
            _write_status(name, phase="done", code=ExitCode.OK, started=started)
    except FoundryError as error:
        _fail(name, error, started)


@contextmanager
def _understood() -> Iterator[None]:
    """Turn whatever the block raises into an error that a user can act on."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted("stopped by Ctrl-C", hint="run the same command again to go on") from error
    except FoundryError:
        raise
    except OSError as error:
        raise _explain(error) from error
    except Exception as error:  # the last line of defence: a defect of ours, shown whole
        if (known := _recognise(error)) is not None:
            raise known from error
        traceback.print_exc()
        hint = "this is a defect of Model Foundry; please report it with the lines above"
        raise FoundryError(f"internal error: {type(error).__name__}: {error}", hint=hint) from error


@contextmanager
def _recorded(name: str, spec_path: Path, started: float) -> Iterator[None]:
    """Keep a record of a stage that was started by itself, by DVC or by torchrun.

    One that `foundry run` or a sweep has started belongs to their record. FOUNDRY_RECORD says in the run folder, and
    to the ranks that the stage starts, whose training this is.
    """
    if ranks.rank() > 0 or ranks.has_stage_above():
        yield
        return
    above = os.environ.get("FOUNDRY_RUN")
    run = os.environ["FOUNDRY_RECORD"] = above or uuid.uuid4().hex
    try:
        with nullcontext() if above else _record(name, spec_path, run, started):
            yield
    finally:
        del os.environ["FOUNDRY_RECORD"]


def _record(name: str, spec_path: Path, run: str, started: float) -> AbstractContextManager[object]:
    from pipeline.records.recording import recorded

    def became(code: ExitCode) -> list[dict[str, Any]]:
        outcome, seconds = "failed" if code else "built", round(time.monotonic() - started, 3)
        return [{"stage": name, "outcome": outcome, "seconds": seconds, "exit_code": int(code)}]

    code_of = partial(exit_code, name)
    return recorded(run, became, origin="stage", spec=spec_path, only_its_own=True, code_of=code_of)


def start_folder(path: str) -> str:
    """The folder of what `training.resume_from_checkpoint` names: a registered model, or a folder.

    Raises:
        FoundryError: there is no such model, or a file of it is not the one that was registered.
    """
    from pipeline.records.registry import model_at

    return str(model_at(path)) if is_registered_name(path) else path


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the one that started it dies (Linux only).

    Without it, a killed `dvc` leaves its stage running, and the next one writes into the same folders.
    A parent that died before the kernel was asked is noticed too, and ends the process here.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if _is_orphan():
        console.say("error: the process that started this stage has ended")
        sys.exit(ExitCode.PREEMPTED)


def _is_orphan() -> bool:
    parent = os.getppid()
    if parent != _PARENT_AT_START:
        return True
    if "DVC_STAGE" not in os.environ or ranks.is_rank():  # ranks have sessions of their own
        return False
    # DVC starts a stage in its own process group; a process that adopts orphans (init, a subreaper) is in another.
    try:
        return os.getpgid(parent) != os.getpgrp()
    except ProcessLookupError:
        return True


def exit_code(name: str, error: FoundryError) -> ExitCode:
    """What a stage that failed with `error` ends with: its own code, unless the error is not its fault."""
    if isinstance(error, SpecError | Preempted | Interrupted):
        return error.exit_code
    return EXIT_CODE_OF[name]


def _preempt(_signal: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one is enough: a second must not cut off what the first began
    raise Preempted("stopped by SIGTERM", hint="run the same command again to go on")


def _recognise(error: Exception) -> FoundryError | None:
    """A full disk and exhausted memory, which libraries report in errors of their own."""
    if is_disk_full(error):
        return _explain(OSError(errno.ENOSPC, str(error)))
    if is_out_of_memory(error):
        hint = "make training.batch_size, model.max_seq_len or the model smaller, or end other programs"
        return FoundryError("there is not enough memory", hint=hint)
    return None


def _explain(error: OSError) -> FoundryError:
    reason = error.strerror or str(error)
    where = str(error.filename or "")
    if is_disk_full(error):
        return FoundryError("the disk is full", where=where, hint="free some space and run the same command again")
    return FoundryError(f"the operating system refused: {reason}", where=where)


def _fail(name: str, error: FoundryError, started: float) -> NoReturn:
    code = exit_code(name, error)
    if ranks.is_rank():
        _tell_launcher(error, code)
    try:
        _write_status(name, phase="failed", code=code, started=started, error=error)
    except OSError:  # for example the full disk that is being reported
        console.show_error(error)
        sys.exit(code)
    # `foundry run` ends with the message, from the status, and so does a stage that has started ranks.
    if not os.environ.get("FOUNDRY_RUN") and not ranks.has_stage_above():
        console.show_error(error)
    sys.exit(code)


def _tell_launcher(error: FoundryError, code: ExitCode) -> None:
    """Leave word where torchrun looks for it, in its form and with what a stage above needs to answer for us."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        told = {"message": str(error), "timestamp": int(time.time()), "hint": error.hint, "code": int(code)}
        write_json(Path(path), {**told, "is_cause": not isinstance(error, LostRankError)})


def _write_status(
    name: str, *, phase: str, code: ExitCode | None, started: float, error: FoundryError | None = None
) -> None:
    if ranks.rank() > 0 or ranks.has_stage_above():
        return
    status: dict[str, Any] = {
        "format_version": 1,
        "stage": name,
        "phase": phase,
        "code": None if code is None else int(code),
        "message": "" if error is None else str(error),
        "hint": "" if error is None else error.hint,
        "pid": os.getpid(),
        "run": os.environ.get("FOUNDRY_RUN", ""),  # which `foundry run` this belongs to, if any
        "seconds": round(time.monotonic() - started, 3),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_artefact(status_file(name), "stage_status", status)
