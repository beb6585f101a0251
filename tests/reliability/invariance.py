"""Measure how little it matters into which micro-batches an optimizer step is cut.

    python tests/reliability/invariance.py [--write docs/reliability.md]

Steps of 32 documents of different lengths are trained on in every factorisation, in float32 and with bfloat16, with a
real model and the real loop; each is compared with 1 x 32. An epoch has 203 documents, so its last step is smaller than
the others, and its last batch is ragged for most factorisations. Prints a table; exits 1 if a difference is beyond its
bound.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables import publish, table
from torch import Tensor

from pipeline.data.batches import IGNORED
from pipeline.tasks.language_model import loss_sum
from pipeline.training.events import MicroBatchShrunk

sys.path += [str(Path(__file__).resolve().parents[1] / name) for name in ("", "training")]  # where a script finds:

from training_bench import Bench

NAME = "invariance"
ROWS = 32  # of a step
DOCUMENTS, LENGTH, VOCABULARY = 203, 8, 40  # 6 whole steps and one of 11; length and vocabulary are the bench's
CUTS = ((1, 32), (2, 16), (4, 8), (32, 1))  # micro-batches of a step x rows of each
STEPS = (1, 20)
LEARNING_RATE = 1e-3  # its peak, after two steps


@dataclass(frozen=True)
class Difference:
    """How far the weights are from those of the uncut step.

    Attributes:
        largest: of any weight, absolute.
        relative: L2 norm of the difference, divided by that of the update.
    """

    largest: float
    relative: float


# What is promised, for each precision and number of steps. Adam divides a gradient by its own size, so the last bit of
# one that is nearly zero can move its weight by the learning rate: with bfloat16, that happens.
BOUNDS = {
    ("32-true", 1): Difference(1e-5, 1e-4),
    ("32-true", 20): Difference(1e-5, 1e-4),
    ("bf16-mixed", 1): Difference(3 * LEARNING_RATE, 1e-1),
    ("bf16-mixed", 20): Difference(10 * LEARNING_RATE, 1e-1),
}


class Documents:
    """Batches of documents of 2 to `LENGTH` tokens, in one order; what is missing to the length is ignored."""

    def __init__(self, batch_size: int) -> None:
        draw = np.random.default_rng(3)
        self._size = batch_size
        self._documents = [draw.integers(VOCABULARY, size=draw.integers(2, LENGTH + 2)) for _ in range(DOCUMENTS)]

    @property
    def per_epoch(self) -> int:
        return -(-DOCUMENTS // self._size)

    @property
    def targets_per_epoch(self) -> int:
        return sum(len(document) - 1 for document in self._documents)

    def batch(self, _epoch: int, index: int) -> tuple[Tensor, Tensor]:
        documents = self._of(index)
        ids = torch.zeros(len(documents), LENGTH, dtype=torch.int64)
        targets = torch.full((len(documents), LENGTH), IGNORED)
        for row, document in enumerate(documents):
            ids[row, : len(document) - 1] = torch.from_numpy(document[:-1])
            targets[row, : len(document) - 1] = torch.from_numpy(document[1:])
        return ids, targets

    def targets_in(self, _epoch: int, index: int) -> int:
        return sum(len(document) - 1 for document in self._of(index))

    def _of(self, index: int) -> list[Any]:
        return self._documents[index * self._size : (index + 1) * self._size]


Loss = Callable[[Tensor, Tensor], Tensor]
Step = Callable[[], None]


def mean_of_means(loss: Loss, *, pieces: int) -> Loss:
    """The mistake that many loops make, for the test that shows that it breaks the bound: pieces weigh the same."""
    tokens = sum(Documents(ROWS // pieces).targets_in(0, index) for index in range(pieces))  # of the first step

    def weighed(ids: Tensor, targets: Tensor) -> Tensor:
        return loss(ids, targets) / (targets != IGNORED).sum() * tokens / pieces

    return weighed


class DocumentBench(Bench):
    """The bench of the training room, with documents to learn from and nothing else to do."""

    def make_batches(self, batch_size: int) -> Documents:
        return Documents(batch_size)


def trained(
    pieces: int,
    rows: int,
    *,
    steps: int,
    precision: str = "32-true",
    around_loss: Callable[[Loss], Loss] = lambda loss: loss,
    optimizer_step: Callable[[Step], None] | None = None,
) -> tuple[Tensor, Tensor, list[int]]:
    """Train for some steps, each of `pieces` micro-batches of `rows` documents.

    Returns:
        All weights before and after, and the rows to which memory made micro-batches shrink, in order.
    """
    before: list[Tensor] = []

    def loss(model: Any, ids: Tensor, targets: Tensor) -> Tensor:
        if not before:
            before.append(weights(model))
        return around_loss(partial(loss_sum, model))(ids, targets)

    with tempfile.TemporaryDirectory() as folder:
        settings = {"batch_size": rows, "accumulation": pieces, "epochs": 99, "max_steps": steps, "dropout": 0.0}
        bench = DocumentBench(
            Path(folder), **settings, precision=precision, learning_rate=LEARNING_RATE, every_n_steps=None
        )
        bench.held_out = bench.held_out[:0]
        bench.loss, bench.optimizer_step = loss, optimizer_step
        bench.start()
    return before[0], weights(bench.model), [e.rows for e in bench.events if isinstance(e, MicroBatchShrunk)]


def weights(model: torch.nn.Module) -> Tensor:
    """All parameters, one after the other."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).clone()


def difference(of: tuple[Tensor, Tensor, Any], whole: tuple[Tensor, Tensor, Any]) -> Difference:
    """How far one result of `trained` is from another."""
    apart, update = of[1] - whole[1], whole[1] - whole[0]
    return Difference(apart.abs().max().item(), (apart.norm() / update.norm()).item())


def within(found: Difference, bound: Difference) -> bool:
    """Whether a difference is not beyond a bound."""
    return found.largest <= bound.largest and found.relative <= bound.relative


def main() -> None:
    """Read the command line, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="a document that has a place for the table")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows, beyond = [], 0
    for (precision, steps), bound in BOUNDS.items():
        run = partial(trained, steps=steps, precision=precision)
        whole = run(*CUTS[0])
        for pieces, size in CUTS[1:]:
            found = difference(run(pieces, size), whole)
            beyond += not within(found, bound)
            figures = (f"{found.largest:.1e}", f"{bound.largest:.0e}", f"{found.relative:.1e}", f"{bound.relative:.0e}")
            rows.append((precision, steps, f"{pieces} x {size}", *figures))
    head = ("precision", "steps", "cut", "largest difference", "bound", "relative to the update", "bound")
    text = table(head, rows)
    publish(NAME, text, chosen.write)
    sys.exit(beyond > 0)


if __name__ == "__main__":
    main()
