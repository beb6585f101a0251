"""Errors that a user can act on, and the exit codes they end a process with."""

from __future__ import annotations

import errno
import os
from enum import IntEnum


class ExitCode(IntEnum):
    """What a `foundry` or stage process ends with; docs/exit-codes.md prints this table."""

    OK = 0
    PREREQUISITES = 1  # also a wrong command line and a wrong spec
    CORPUS = 2
    TOKENIZER = 3
    TRAINING = 4
    VALIDATION = 5
    EXPORT = 6
    PREEMPTED = 75  # EX_TEMPFAIL: stopped by SIGTERM with a checkpoint; the next run continues
    INTERRUPTED = 130  # 128 + SIGINT, what shells report for Ctrl-C


EXIT_CODE_OF = {  # what each stage ends with when its work fails
    "corpus": ExitCode.CORPUS,
    "tokenizer": ExitCode.TOKENIZER,
    "train": ExitCode.TRAINING,
    "validate": ExitCode.VALIDATION,
    "export": ExitCode.EXPORT,
}


# What torch says, on the processor and on a graphics card.
_OUT_OF_MEMORY = ("allocate memory", "not enough memory", "out of memory", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or of a library says that there is not enough memory."""
    return isinstance(error, MemoryError) or any(phrase in str(error).lower() for phrase in _OUT_OF_MEMORY)


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space, a quota, a limit of the process


def is_disk_full(error: BaseException) -> bool:
    """Whether an error of Python or of a library says that there is no room for a file."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _DISK_FULL
    return any(os.strerror(number).lower() in str(error).lower() for number in _DISK_FULL)


class FoundryError(Exception):
    """Something a user can mend: what is wrong, where, and what to do about it.

    Args:
        message: one sentence, what is wrong and why.
        hint: what to do next, usually a command or an edit.
        where: `file`, `file:line` or `file:line:column`, when there is one.
    """

    exit_code = ExitCode.PREREQUISITES

    def __init__(self, message: str, *, hint: str = "", where: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.where = where

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class ArtifactError(FoundryError):
    """An artefact is missing, incomplete or not what its manifest says.

    Whoever reads the artefact fails with its own exit code: see `stages.door`.
    """


class CorpusError(FoundryError):
    """The corpus cannot be read, cleaned or split."""

    exit_code = ExitCode.CORPUS


class TokenizerError(FoundryError):
    """The tokenizer cannot be trained or used."""

    exit_code = ExitCode.TOKENIZER


class TrainingError(FoundryError):
    """Training cannot start or cannot go on."""

    exit_code = ExitCode.TRAINING


class LostRankError(TrainingError):
    """Another process of the run has ended or does not answer: a consequence, whose cause that process may tell."""


class ValidationError(FoundryError):
    """The trained model misses a budget of the spec."""

    exit_code = ExitCode.VALIDATION


class ExportError(FoundryError):
    """An export cannot be made, or differs from the model it was made from."""

    exit_code = ExitCode.EXPORT


class Preempted(FoundryError):
    """The process was asked to stop (SIGTERM) and saved what it had."""

    exit_code = ExitCode.PREEMPTED


class Interrupted(FoundryError):
    """The user pressed Ctrl-C and what there was has been saved."""

    exit_code = ExitCode.INTERRUPTED
