"""What the loop tells of every optimizer step for the ledger of a run: enough to find where two runs part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from pipeline.training.distributed import World
from pipeline.training.marks import Marker
from pipeline.training.step import Gradients


@dataclass(frozen=True)
class Entry:
    """One optimizer step, whether it was taken or passed over."""

    step: int  # from 1
    epoch: int  # from 1
    batch: int  # the step's first one of the epoch, from 1
    data: str  # what the batches of the step hold, as hexadecimal digits
    nats: float  # loss summed over the step's targets
    norm: float  # of all gradients together, before clipping
    flaw: str  # why the step was not taken: loss, gradient or overflow; empty: it was
    gradients: bytes | None  # marks of all gradients before clipping; None: a step that is not marked
    weights: bytes | None  # marks of all weights after the step


class Witness:
    """Sees every step of a run. This one takes no notice."""

    def mark_at(self, step: int) -> Callable[[], bytes] | None:  # noqa: ARG002 - for those who do
        """What marks the gradients of a step, counted from 1, before they are clipped; None: they are not marked."""
        return None

    def saw(self, step: int, *, epoch: int, batch: int, found: Gradients) -> None:
        """Take notice of a step after it was taken or passed over.

        Args:
            step: from 1.
            epoch: from 1.
            batch: its first one of the epoch, from 1.
            found: what its batches gave.
        """


NOBODY = Witness()


class Teller(Witness):
    """Tells of every step. All ranks have one, since they mark tensors together; the first one's tells.

    Args:
        model: what is trained.
        world: the ranks.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        self.marker = Marker(model, world)
        self.tell: Callable[[Entry], None] = lambda _entry: None

    def mark_at(self, step: int) -> Callable[[], bytes] | None:
        """See `Witness`."""
        return self.marker.gradients if self.marker.is_due_before(step) else None

    def saw(self, step: int, *, epoch: int, batch: int, found: Gradients) -> None:
        """See `Witness`."""
        weights = self.marker.weights() if self.marker.is_due(step) else None
        flaw = found.flaw or ("overflow" if found.overflowed else "")
        self.tell(Entry(step, epoch, batch, found.data, found.nats, found.norm, flaw, found.marks, weights))
