"""SIGTERM and Ctrl-C while training: noted, and acted upon after the step, by all ranks together."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from pipeline import ranks
from pipeline.errors import FoundryError, Interrupted, Preempted
from pipeline.training.distributed import World


def listen_for_signals(world: World) -> Callable[[], FoundryError | None]:
    """From now on SIGTERM and Ctrl-C only leave a note, which the returned function reads.

    Args:
        world: the ranks; all of them call the function together, and what one of them has received stops all.
    """
    received: list[int] = []
    speaks = world.is_first and not ranks.has_stage_above()

    def note(number: int, _frame: object) -> None:
        if not received and speaks:
            os.write(2, b"\nstopping after this step, with a checkpoint ...\n")  # print may be at work right now
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, note)

    def asked() -> FoundryError | None:
        number = world.largest(received[0] if received else 0)
        if number == 0:
            return None
        hint = "run the same command again: it goes on from the checkpoint"
        if number == signal.SIGINT:
            return Interrupted("training was stopped by Ctrl-C and its state is saved", hint=hint)
        return Preempted("training was stopped by SIGTERM and its state is saved", hint=hint)

    return asked
