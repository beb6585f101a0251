"""SIGTERM and Ctrl-C while training: noted, and acted upon after the step."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from pipeline.errors import FoundryError, Interrupted, Preempted


def listen_for_signals() -> Callable[[], FoundryError | None]:
    """From now on SIGTERM and Ctrl-C only leave a note, which the returned function reads."""
    received: list[int] = []

    def note(number: int, _frame: object) -> None:
        if not received:
            os.write(2, b"\nstopping after this step, with a checkpoint ...\n")  # print may be at work right now
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, note)

    def asked() -> FoundryError | None:
        if not received:
            return None
        hint = "run the same command again: it goes on from the checkpoint"
        if received[0] == signal.SIGINT:
            return Interrupted("training was stopped by Ctrl-C and its state is saved", hint=hint)
        return Preempted("training was stopped by SIGTERM and its state is saved", hint=hint)

    return asked
