"""Which process of several this one is, as torchrun says it in the environment. Nothing here imports torch."""

from __future__ import annotations

import os
import sys

# Set by torchrun for each process that it starts, and by the launchers that speak its language.
_FROM_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Set by the train stage for the processes that it starts itself.
_STARTED_BY_STAGE = "FOUNDRY_STAGE_RANKS"


def is_rank() -> bool:
    """Whether a launcher started this process as one of several that train together."""
    return all(name in os.environ for name in _FROM_TORCHRUN)


def rank() -> int:
    """The number of this process among those that train together; 0 on its own."""
    return int(os.environ["RANK"]) if is_rank() else 0


def local_rank() -> int:
    """The same among those on this machine."""
    return int(os.environ["LOCAL_RANK"]) if is_rank() else 0


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ["WORLD_SIZE"]) if is_rank() else 1


def processes_here() -> int:
    """How many of them run on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if is_rank() else 1


def has_stage_above() -> bool:
    """Whether the process above is the train stage itself, which speaks and answers for its ranks."""
    return is_rank() and _STARTED_BY_STAGE in os.environ


def marked_as_ours() -> dict[str, str]:
    """The environment variable by which ranks know that the train stage started them."""
    return {_STARTED_BY_STAGE: "1"}


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    return "ipykernel" in sys.modules
