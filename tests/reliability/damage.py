"""Damage checkpoints, a thousand times, each time otherwise, and see that each damage is found.

    python tests/reliability/damage.py [--trials 1000] [--seed 0] [--write docs/reliability.md]

A run folder holds two checkpoints. Each trial flips a random bit of a file of the newer one, or cuts it off at a random
place; all files are taken equally often. Then the newest checkpoint is asked for, as by a run that goes on: it must be
the older one, and the damaged one must be named. Prints a table; exits 1 at the first trial that fails.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tables import publish, table
from tiny_runs import TinyRun

from pipeline.training.run_folder import checkpoint_folder

NAME = "damage"


def flipped(whole: bytes, rng: random.Random) -> bytes:
    """One bit is another one."""
    place, bit = rng.randrange(len(whole)), 1 << rng.randrange(8)
    return whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :]


def cut_off(whole: bytes, rng: random.Random) -> bytes:
    """The end is missing, at least its last byte."""
    return whole[: rng.randrange(len(whole))]


KINDS = {"a flipped bit": flipped, "cut off": cut_off}


def found(tiny: TinyRun, run_folder: Path, *, trials: int, seed: int) -> Counter[tuple[str, str]]:
    """Damage the newer of the checkpoints of steps 1 and 2.

    Returns:
        File and kind of damage → how often it was found.

    Raises:
        AssertionError: a damage was not found.
    """
    rng = random.Random(seed)
    tiny.save(run_folder, 1, 2, keep_last_n=2)
    files = sorted(checkpoint_folder(run_folder, 2).iterdir())
    counted: Counter[tuple[str, str]] = Counter()
    for trial in range(trials):
        path = files[trial % len(files)]
        kind = [*KINDS][trial // len(files) % len(KINDS)]
        whole = path.read_bytes()
        damaged = KINDS[kind](whole, rng)
        path.unlink()  # a link to the same bytes in another checkpoint is not to be damaged
        path.write_bytes(damaged)
        step, problems = tiny.resumed_step(run_folder)
        assert step == 1, f"trial {trial}, {path.name}, {kind}: goes on from step {step}"
        assert len(problems) == 1, f"trial {trial}: {problems}"
        assert "checkpoint-00000002" in problems[0], f"trial {trial}: {problems}"
        counted[path.name, kind] += 1
        path.write_bytes(whole)
    assert tiny.resumed_step(run_folder) == (2, []), "mended, it is whole again"
    return counted


def main() -> int:
    """Damage, look, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help="put the table into this document")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="foundry-damage-") as folder:
        counted = found(TinyRun(), Path(folder), trials=arguments.trials, seed=arguments.seed)
    files = sorted({name for name, _ in counted})
    text = table(("file", *KINDS), ([f"`{name}`", *(counted[name, kind] for kind in KINDS)] for name in files))
    text += f"\n{counted.total():,} damages, all found, and each time the checkpoint before was used.\n"
    publish(NAME, text, arguments.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
