"""The ledger of a training run: what the loop tells of each step goes into a file that ends up in the model folder."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.records.ledger import LEDGER, LedgerWriter
from pipeline.stages.train_setup import Setup
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.ledger import Entry, Teller


def open_ledger(
    run_folder: Path,
    setup: Setup,
    checkpoint: Checkpoint | None,
    *,
    inputs: Mapping[str, str],
    code: Mapping[str, str],
) -> tuple[Teller, LedgerWriter | None]:
    """Whom the loop shows its steps, and the ledger that they go into, which only the first rank keeps.

    All ranks call this together.

    Args:
        run_folder: where the ledger grows; its lock is held.
        setup: of the run.
        checkpoint: that the run goes on from; the ledger is cut back to it.
        inputs: name → SHA-256 of what the model is trained from.
        code: file → SHA-256 of the code that shapes the result.

    Raises:
        ArtifactError: the ledger in the folder does not hold the steps that the checkpoint knows of.
    """
    teller = Teller(setup.model, setup.world)
    marker = teller.marker
    weights = marker.weights() if checkpoint is None else None
    if not setup.world.is_first:
        return teller, None
    writer = LedgerWriter(
        run_folder / LEDGER,
        begin=lambda: {
            "inputs": dict(inputs),
            "code": dict(code),
            "tensors": marker.names,
            "marked_every": marker.every,
            "weights": weights,
        },
        environment=environment_of(setup),
        after_step=checkpoint.step if checkpoint else 0,
        head=checkpoint.state.get("ledger") if checkpoint else None,
    )
    teller.tell = lambda entry: writer.append(line_of(entry))
    return teller, writer


def environment_of(setup: Setup) -> dict[str, Any]:
    """What else than settings, data and code can change the bits of the result."""
    libraries = {"python": platform.python_version(), "numpy": np.__version__}
    return {**setup.execution.to_dict(), **setup.describe_world(), **libraries}


def line_of(entry: Entry) -> dict[str, Any]:
    """A step as the ledger holds it. Numbers are spelled so that reading them gives the same bits."""
    return {
        "step": entry.step,
        "epoch": entry.epoch,
        "batch": entry.batch,
        "data": entry.data,
        "loss": _finite(entry.nats),
        "gradient_norm": _finite(entry.norm),
        **({"flaw": entry.flaw} if entry.flaw else {}),
        "gradients": entry.gradients,
        "weights": entry.weights,
    }


def settling(writer: LedgerWriter | None) -> Callable[[], dict[str, Any]]:
    """What a checkpoint remembers of the ledger, once that is on disk."""
    return lambda: {} if writer is None else {"ledger": writer.settle()}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
