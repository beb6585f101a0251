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
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables import table, write_between_marks
from torch import Tensor

from pipeline.data.batches import IGNORED
from pipeline.models.transformer import Transformer
from pipeline.tasks.language_model import loss_sum
from pipeline.training.events import Event, MicroBatchShrunk
from pipeline.training.loop import train
from pipeline.training.optimizer import adamw
from pipeline.training.saver import Saver

NAME = "invariance"
ROWS = 32  # of a step
DOCUMENTS, LENGTH, VOCABULARY = 203, 32, 64  # 6 whole steps and one of 11
CUTS = ((1, 32), (2, 16), (4, 8), (32, 1))  # micro-batches of a step x rows of each
STEPS = (1, 20)
LEARNING_RATE = 1e-3


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


def trained(
    pieces: int,
    rows: int,
    *,
    steps: int,
    precision: str = "32-true",
    around_loss: Callable[[Loss], Loss] = lambda loss: loss,
    around_step: Callable[[Step], Step] = lambda step: step,
) -> tuple[Tensor, Tensor, list[int]]:
    """Train for some steps, each of `pieces` micro-batches of `rows` documents.

    Returns:
        All weights before and after, and the rows to which memory made micro-batches shrink, in order.
    """
    torch.manual_seed(1)
    model = Transformer(
        vocab_size=VOCABULARY, d_model=32, num_layers=2, num_heads=2, d_ff=64, max_seq_len=LENGTH, dropout=0.0
    ).train()
    before = weights(model)

    def loss(ids: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            return loss_sum(model, ids, targets)

    optimizer = adamw(model, learning_rate=LEARNING_RATE, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1)
    optimizer.step = around_step(optimizer.step)  # type: ignore[method-assign, arg-type, assignment]
    events: list[Event] = []
    with tempfile.TemporaryDirectory() as folder:
        train(
            model=model,
            optimizer=optimizer,
            batches=Documents(rows),
            loss_sum=around_loss(loss),
            learning_rate=lambda _step: LEARNING_RATE,
            evaluate=None,
            saver=Saver(
                run_folder=Path(folder),
                model=model,
                optimizer=optimizer,
                total_steps=steps,
                state={},
                metadata={},
                emit=events.append,
            ),
            checkpoint=None,
            total_steps=steps,
            accumulation=pieces,
            max_grad_norm=1.0,
            on_nonfinite="stop",
            eval_every_n_steps=None,
            patience=None,
            min_delta=0.0,
            emit=events.append,
            stop=lambda: None,
            started=time.monotonic(),
        )
    return before, weights(model), [event.rows for event in events if isinstance(event, MicroBatchShrunk)]


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
    print(text, end="")
    if chosen.write is not None:
        write_between_marks(chosen.write, NAME, text)
    sys.exit(beyond > 0)


if __name__ == "__main__":
    main()
