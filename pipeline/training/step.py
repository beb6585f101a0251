"""One optimizer step: gradients of its batches, summed over tokens, and what to do when memory or numbers run out.

A step is cut into micro-batches. Their losses are sums over tokens, divided by the tokens of the whole step, so the cut
does not weigh on the result. When memory runs out the step is taken again in smaller pieces: same rows, same order.
Ranks share the rows of each batch, and what one of them meets, all of them answer in the same way.
"""

from __future__ import annotations

import gc
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.data.batches import BatchSource
from pipeline.errors import TrainingError, is_out_of_memory
from pipeline.training.distributed import World, talking
from pipeline.training.exact import gradient_hash
from pipeline.training.hardware import keeping_random_states
from pipeline.training.marks import bytes_of
from pipeline.training.precision import LossScale

_DATA_DIGITS = 16  # 64 bits: plenty to tell the batches of two runs apart


class NotEnoughMemoryError(TrainingError):
    """Not even a micro-batch of one row fits."""


@dataclass(frozen=True)
class Gradients:
    """What a step's batches gave; the gradients themselves are in the model."""

    nats: float  # loss summed over the step's targets
    tokens: int  # targets
    norm: float  # of all gradients together (L2), before clipping
    overflowed: bool = False  # the loss scale was too large for float16, and is smaller now
    data: str = ""  # SHA-256 of what the batches hold, its first 16 digits
    marks: bytes | None = None  # of the gradients before clipping, if they were asked for

    @property
    def usable(self) -> bool:
        """Whether a step can be taken with them."""
        return not self.flaw and not self.overflowed

    @property
    def flaw(self) -> str:
        """What is not a finite number: `loss` or `gradient`; empty when all is well but the loss scale."""
        if not math.isfinite(self.nats):
            return "loss"
        return "" if self.overflowed or math.isfinite(self.norm) else "gradient"


class Stepper:
    """Computes gradients and applies them.

    Args:
        model: in training mode, on its device.
        optimizer: over the model's parameters.
        batches: see `BatchSource`.
        loss_sum: the tensors of a batch, or of some rows of it → sum of the loss over the targets that count, in nats.
        max_grad_norm: gradients are scaled down to this norm; None never.
        rows: most rows of a micro-batch; None takes whole batches.
        on_smaller: told the new number of rows whenever memory made it smaller.
        scale: of the loss.
        world: the ranks that take the step together.
        try_first: take the gradients of the first batch twice before anything else, leaving no trace, and refuse to
            train if they differ in a bit: a processor, memory or library that fails now and then would spoil the run
            without a word. Where memory does not suffice for the trial, nothing is found out.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: BatchSource,
        loss_sum: Callable[..., Tensor],
        *,
        max_grad_norm: float | None,
        rows: int | None,
        on_smaller: Callable[[int], None],
        scale: LossScale,
        world: World,
        try_first: bool = False,
    ) -> None:
        self._model, self._optimizer = model, optimizer
        self._batches, self._loss_sum = batches, loss_sum
        self._limit = math.inf if max_grad_norm is None else max_grad_norm
        self._device = next(model.parameters()).device
        self.rows, self._on_smaller = rows, on_smaller
        self._scale = scale
        self._try_first = try_first
        self._world = world
        self._data = hashlib.sha256()  # of the batches of a step

    def gradients(self, epoch: int, indices: range, mark: Callable[[], bytes] | None = None) -> Gradients:
        """The clipped gradients of some batches, in the model.

        Args:
            epoch: from 0.
            indices: of the batches.
            mark: called when the gradients are whole and not yet clipped.

        Raises:
            NotEnoughMemoryError: there is not enough memory for a single row.
            TrainingError: the first batch, tried twice, gave other gradients the second time.
        """
        self._world.draw_anew(epoch, indices.start)
        if self._try_first:
            self._require_repeatable(epoch, indices.start)
            self._try_first = False
        random = torch.random.get_rng_state()
        on_device = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        while (found := self._attempt(epoch, indices, mark)) is None:
            self._shrink(epoch, indices)
            torch.random.set_rng_state(random)
            if on_device is not None:
                torch.cuda.set_rng_state(on_device, self._device)
        return found

    def apply(self) -> None:
        """Let the optimizer take its step; where memory runs out before it changed anything, with a second try.

        Raises:
            TrainingError: memory ran out when a part of the weights or moments had been changed.
        """
        before = {id(tensor): tensor._version for tensor in self._changed_by_a_step()}  # noqa: SLF001 - counts writes
        known = set(self._optimizer.state)
        try:
            self._optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            again = True
        else:
            again = False
        if again:  # outside of the handler, which holds the arrays of every frame
            if any(tensor._version != before.get(id(tensor), 0) for tensor in self._changed_by_a_step()):  # noqa: SLF001
                message = "memory ran out while the optimizer took its step, which cannot be taken back"
                raise TrainingError(message, hint="end other programs and run again: the last checkpoint is sound")
            for parameter in self._optimizer.state.keys() - known:  # moments that were only half made
                del self._optimizer.state[parameter]
            self._free()
            self._optimizer.step()

    def _changed_by_a_step(self) -> Iterator[Tensor]:
        """Each parameter, and what the optimizer keeps for it. Fused kernels count their step beside the weights."""
        yield from self._model.parameters()
        for state in self._optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))

    def discard(self) -> None:
        """Forget the gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    def _require_repeatable(self, epoch: int, index: int) -> None:
        found = set()
        for _ in range(2):
            self._model.zero_grad(set_to_none=True)
            with keeping_random_states(self._device.type):
                if self._accumulate_or_run_out(epoch, range(index, index + 1)) is not None:
                    found.add(gradient_hash(self._model))
        if len(found) > 1:
            raise TrainingError(
                f"the same batch gave other gradients the second time (epoch {epoch + 1}, batch {index})",
                hint="run the same command again: it goes on from the last checkpoint. If it says so again, memory or "
                "processor of this machine are not to be trusted; with reproducibility.deterministic false nothing is "
                "tried",
            )

    def _attempt(self, epoch: int, indices: range, mark: Callable[[], bytes] | None) -> Gradients | None:
        """The gradients, or None when memory ran out, here or in another rank."""
        self.discard()
        self._data = hashlib.sha256()
        own = self._accumulate_or_run_out(epoch, indices)
        ran_out, nats = self._world.sum(float(own is None), own or 0.0)
        if ran_out:
            return None
        self._world.add_up(self._model)
        overflowed = self._scale.unscale(self._optimizer)
        marks = None if mark is None else mark()
        norm = self._world.whole_tensor(torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._limit)).item()
        data = self._data.hexdigest()[:_DATA_DIGITS]
        return Gradients(nats, self._tokens(epoch, indices), norm, overflowed, data, marks)

    def _accumulate_or_run_out(self, epoch: int, indices: range) -> float | None:
        """The loss of this rank's rows, or None when memory ran out."""
        try:
            with talking():
                return self._accumulate(epoch, indices)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not self._world.can_retry:
                raise
        return None  # outside of the handler, which holds the arrays of every frame

    def _accumulate(self, epoch: int, indices: range) -> float:
        tokens = self._tokens(epoch, indices)
        losses = []
        for index in indices:
            whole = self._batches.batch(epoch, index)
            for tensor in whole:
                self._data.update(bytes_of(tensor).data)
            batch = [self._world.share(tensor) for tensor in whole]
            most = self._world.largest_share(len(whole[0]))
            rows = self.rows or most
            for start in range(0, most, rows):
                last = index == indices[-1] and start + rows >= most
                self._world.before_backward(self._model, last=last)
                loss = self._loss_sum(*(self._moved(tensor[start : start + rows]) for tensor in batch))
                self._scale.scaled(loss / tokens).backward()  # type: ignore[no-untyped-call]
                losses.append(loss.detach().clone())  # a compiled graph may write the next loss into the same memory
        return sum(loss.item() for loss in losses)  # at the end: a GPU has to be waited for

    def _tokens(self, epoch: int, indices: range) -> int:
        """Targets of the whole step, those of all ranks."""
        return sum(self._batches.targets_in(epoch, index) for index in indices)

    def _moved(self, rows: Tensor) -> Tensor:
        """The rows on the model's device; a GPU copies pinned memory while it computes."""
        if self._device.type == "cuda":
            rows = rows.pin_memory()
        return rows.to(self._device, non_blocking=True)

    def _shrink(self, epoch: int, indices: range) -> None:
        rows = self.rows or self._world.largest_share(len(self._batches.batch(epoch, indices.start)[0]))
        if rows == 1:
            raise NotEnoughMemoryError(
                "there is not enough memory for a single row",
                hint="make model.max_seq_len or the model smaller, or end other programs",
            )
        self._free()
        self.rows = rows // 2
        self._on_smaller(self.rows)

    def _free(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
