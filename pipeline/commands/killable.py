"""The train stage as the proof of exact resume starts it: it halts at a named point, to be killed exactly there.

    python -m pipeline.commands.killable DURING AFTER NUMBER [option of the train stage ...]

It watches from outside: what torch's optimizers and backward passes are asked to do, and which files Python touches.
The stage itself runs as it always does and knows nothing of it.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.commands.proof import REACHED, steps_done
from pipeline.files import write_atomic
from pipeline.stages.train import main as train  # sets what must be set before torch is imported

_UNFINISHED = ".tmp-checkpoint-"  # what the folder of a checkpoint is called while it is being written
_FILE_EVENTS = frozenset(("open", "os.link", "os.mkdir", "os.rename", "shutil.copyfile"))


class Watch:
    """Knows where training is, and halts it where it was told to.

    Args:
        during: `moment` only says that the step was reached; `accumulation` halts after a backward pass, before the
            optimizer takes its step; `save` halts inside the writing of a checkpoint; `never` does nothing.
        after: optimizer steps that the run must have recorded.
        number: which backward pass of the step, or which file operation of the save; of fewer, the last.
    """

    def __init__(self, during: str, after: int, number: int) -> None:
        self._during, self._after, self._number = during, after, number
        self._armed = False
        self._passes = self._operations = 0
        self._began: float | None = None  # the step that is being taken

    def step_begins(self) -> None:
        """Gradients are cleared."""
        now = time.monotonic()
        earlier, self._began = self._began, now
        self._passes = 0
        self._armed = self._armed or steps_done(Path()) >= self._after
        if self._armed and self._during == "moment" and earlier is not None:
            self._during = "never"
            self._say("a random moment", step_seconds=now - earlier)

    def gradients_are_there(self) -> None:
        """A backward pass is over."""
        self._passes += 1
        if self._armed and self._during == "accumulation" and self._passes >= self._number:
            self._halt(f"after backward pass {self._passes} of a step")

    def step_is_taken(self) -> None:
        """The optimizer is about to change the weights."""
        if self._armed and self._during == "accumulation":  # the step had fewer passes than the number
            self._halt(f"after backward pass {self._passes} of a step, the last")

    def file_is_touched(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Python is about to do something that it announces to audit hooks."""
        if not (self._armed and self._during == "save" and event in _FILE_EVENTS):
            return
        names = [str(name) for name in arguments[:2] if isinstance(name, str | os.PathLike)]
        inside = [_UNFINISHED in name for name in names]
        if not any(inside):
            return
        self._operations += 1
        gets_its_name = event == "os.rename" and not all(inside)
        if self._operations >= self._number or gets_its_name:
            self._halt(f"inside the writing of a checkpoint, before {event} of {Path(names[0]).name}")

    def _say(self, place: str, *, step_seconds: float = 0.0) -> None:
        write_atomic(REACHED, json.dumps({"place": place, "step_seconds": step_seconds}))

    def _halt(self, place: str) -> None:
        self._during = "never"
        self._say(place)
        os.kill(os.getpid(), signal.SIGSTOP)


def watch(watched: Watch) -> None:
    """Let a watch see what torch and Python do in this process."""
    import torch
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    optimizer: Any = torch.optim.Optimizer
    optimizer.zero_grad = _before(watched.step_begins, optimizer.zero_grad)
    register_optimizer_step_pre_hook(lambda *_: watched.step_is_taken())
    tensor: Any = torch.Tensor
    tensor.backward = _after(watched.gradients_are_there, tensor.backward)
    sys.addaudithook(watched.file_is_touched)


def _before(told: Callable[[], None], function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        told()
        return function(*arguments, **named)

    return wrapped


def _after(told: Callable[[], None], function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        told()
        return result

    return wrapped


def main(arguments: list[str]) -> None:
    """Run the train stage under a watch."""
    during, after, number, *rest = arguments
    watch(Watch(during, int(after), int(number)))
    train(rest)


if __name__ == "__main__":
    main(sys.argv[1:])
