"""Save a checkpoint of step 2 beside one of step 1 where there is not enough room. Run by test_checkpoints.py.

    python tests/reliability/starved.py RUN_FOLDER [--file-limit BYTES]

Prints what the toolkit says.
"""

from __future__ import annotations

import argparse
import resource
import sys
from pathlib import Path

from tiny_runs import TinyRun, bytes_of

from pipeline.errors import TrainingError
from pipeline.training.run_folder import locked

_WIDTH = 64  # checkpoints of some 400 kB


def main() -> int:
    """Save, starve, look."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--file-limit", type=int, help="bytes that a file can have from the second save on")
    arguments = parser.parse_args()
    tiny = TinyRun(_WIDTH)
    with locked(arguments.run_folder):
        tiny.save(arguments.run_folder, 1, keep_last_n=2)
        before = bytes_of(arguments.run_folder)
        if arguments.file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (arguments.file_limit, resource.RLIM_INFINITY))
        try:
            tiny.save(arguments.run_folder, 2, keep_last_n=2)
        except TrainingError as error:
            print(error, error.hint, sep="\n")
        else:
            raise AssertionError("the second save went well")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert bytes_of(arguments.run_folder) == before, "the earlier checkpoint is as it was"
        names = sorted(path.name for path in arguments.run_folder.iterdir())
        assert names == ["checkpoint-00000001", "lock"], names
        assert tiny.resumed_step(arguments.run_folder) == (1, [])
    return 0


if __name__ == "__main__":
    sys.exit(main())
