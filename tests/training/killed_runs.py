"""A process that trains once in each precision, in children that are killed in the middle: `killed_runs.py FOLDER`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from training_bench import Bench

from pipeline.training.events import StepDone
from pipeline.training.precision import PRECISIONS

KILLED_AFTER = 13  # steps; the newest checkpoint is that of step 12


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for precision in PRECISIONS:
        (folder / precision).mkdir()
        child = os.fork()
        if child == 0:
            bench = Bench(folder / precision, precision=precision)
            bench.events = _Killer()
            bench.start()
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL


class _Killer(list):  # type: ignore[type-arg]
    def append(self, event: object) -> None:
        super().append(event)
        if isinstance(event, StepDone) and event.step == KILLED_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
