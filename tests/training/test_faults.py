"""Faults in the middle of a step: memory that runs out, losses and gradients that are not numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.errors import Preempted, TrainingError
from pipeline.tasks.language_model import loss_sum
from pipeline.training.checkpoint import newest_checkpoint
from pipeline.training.events import MicroBatchShrunk, OddGradient, StepDone, StepSkipped

pytestmark = pytest.mark.unit

Make = Callable[..., Any]
NO_MEMORY = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."
OUT_OF_MEMORY = (RuntimeError(NO_MEMORY), torch.OutOfMemoryError("CUDA out of memory."), MemoryError())


def weights(bench: Any) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in bench.model.parameters()])


def events(bench: Any, kind: type) -> list[Any]:
    return [event for event in bench.events if isinstance(event, kind)]


class _FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:  # noqa: ARG004
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *_gradients: Any) -> Any:  # noqa: ARG004
        raise RuntimeError(NO_MEMORY)


def only_for(rows: int, where: str, model: Any, ids: Tensor, targets: Tensor) -> Tensor:
    """The loss, on a machine whose memory is enough for so many rows."""
    if len(ids) > rows and where == "forward":
        raise RuntimeError(NO_MEMORY)
    loss = loss_sum(model, ids, targets)
    return _FailsBackward.apply(loss) if len(ids) > rows else loss  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize(("rows", "halvings"), [(2, [2]), (1, [2, 1])])
def test_a_step_that_does_not_fit_into_memory_is_taken_in_smaller_pieces(
    make_bench: Make, where: str, rows: int, halvings: list[int]
) -> None:
    roomy = make_bench(dropout=0.0)
    tight = make_bench(dropout=0.0)
    tight.loss = partial(only_for, rows, where)

    roomy.start()
    result = tight.start()

    assert [event.rows for event in events(tight, MicroBatchShrunk)] == halvings
    assert all(event.step == 1 for event in events(tight, MicroBatchShrunk))
    assert result.progress.micro_batch_rows == rows
    assert result.progress.tokens == 3 * 460
    torch.testing.assert_close(weights(tight), weights(roomy), atol=2e-4, rtol=0)


def test_an_optimizer_that_runs_out_of_memory_takes_its_step_all_the_same(make_bench: Make) -> None:
    roomy, tight = make_bench(), make_bench()
    calls: list[int] = []

    def step(real: Callable[[], None]) -> None:
        calls.append(len(calls) + 1)
        if calls[-1] in (2, 5):
            raise MemoryError
        real()

    tight.optimizer_step = step

    result = roomy.start()
    tight.start()

    assert len(calls) == result.progress.step + 2
    assert torch.equal(weights(tight), weights(roomy))


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_memory_running_out_is_recognised_by_every_name_that_it_has(make_bench: Make, error: Exception) -> None:
    bench = make_bench(epochs=1)

    def fails(model: Any, ids: Tensor, targets: Tensor) -> Tensor:
        if len(ids) > 2:
            raise error
        return loss_sum(model, ids, targets)

    bench.loss = fails

    assert bench.start().progress.micro_batch_rows == 2


def test_an_optimizer_that_ran_out_of_memory_halfway_is_not_asked_again(make_bench: Make) -> None:
    bench = make_bench(every_n_steps=1)
    calls: list[int] = []

    def step(real: Callable[[], None]) -> None:
        calls.append(len(calls) + 1)
        real()
        if calls[-1] == 3:  # the weights have been changed
            raise MemoryError

    bench.optimizer_step = step

    with pytest.raises(TrainingError, match="memory ran out while the optimizer took its step"):
        bench.start()

    assert len(calls) == 3
    checkpoint, _ = newest_checkpoint(bench.folder)
    assert checkpoint is not None
    assert checkpoint.step == 2


def test_moments_that_were_half_made_when_memory_ran_out_are_made_anew(make_bench: Make) -> None:
    roomy, tight = make_bench(epochs=1), make_bench(epochs=1)
    calls: list[int] = []

    def step(real: Callable[[], None]) -> None:
        calls.append(len(calls) + 1)
        if calls[-1] == 1:
            parameter = next(tight.model.parameters())
            tight.optimizer.state[parameter]["step"] = torch.tensor(0.0)
            raise MemoryError
        real()

    tight.optimizer_step = step

    roomy.start()
    tight.start()

    assert torch.equal(weights(tight), weights(roomy))


def test_the_size_of_micro_batches_survives_a_restart_bit_by_bit(make_bench: Make) -> None:
    straight, stopped = make_bench(), make_bench()  # with dropout: the pieces decide what is dropped
    for bench in (straight, stopped):
        bench.loss = partial(only_for, 2, "forward")

    expected = straight.identity(straight.start())
    with pytest.raises(Preempted):
        stopped.start(stop_at=7)

    assert stopped.identity(stopped.resume()) == expected
    assert len(events(stopped, MicroBatchShrunk)) == 1


def test_memory_that_does_not_suffice_for_one_row_ends_the_run(make_bench: Make) -> None:
    bench = make_bench()
    bench.loss = partial(only_for, 0, "forward")

    with pytest.raises(TrainingError, match="not enough memory for a single row"):
        bench.start()


def test_an_error_that_is_not_about_memory_is_not_hidden(make_bench: Make) -> None:
    bench = make_bench()

    def broken(_model: Any, _ids: Tensor, _targets: Tensor) -> Tensor:
        raise RuntimeError("a shape does not fit")

    bench.loss = broken

    with pytest.raises(RuntimeError, match="a shape does not fit"):
        bench.start()


class Wavering:
    """A loss that is off by a millionth at one call, as on a machine that fails now and then."""

    def __init__(self, call: int) -> None:
        self.call, self.calls = call, 0

    def __call__(self, model: Any, ids: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        loss = loss_sum(model, ids, targets)
        return loss * (1 + 1e-6) if self.calls == self.call else loss


@pytest.mark.parametrize("call", [1, 2])
def test_a_machine_that_gives_other_gradients_the_second_time_is_not_trained_on(make_bench: Make, call: int) -> None:
    bench = make_bench(try_first=True, every_n_steps=3)
    with pytest.raises(Preempted):
        bench.start(stop_at=5)
    bench.loss = Wavering(call)

    with pytest.raises(TrainingError, match="the same batch gave other gradients the second time") as caught:
        bench.resume()

    assert "run the same command again" in caught.value.hint
    assert len([event for event in bench.events if isinstance(event, StepDone)]) == 5  # none was taken since


def test_trying_the_first_batch_twice_leaves_no_trace(make_bench: Make) -> None:
    plain, tried = make_bench(), make_bench(try_first=True)
    with pytest.raises(Preempted):
        tried.start(stop_at=5)

    assert tried.identity(tried.resume()) == plain.identity(plain.start())


class Flawed:
    """A loss that is no number, or has no finite gradient, at some calls; it remembers the weights of each call."""

    def __init__(self, calls: set[int], *, flaw: str = "loss") -> None:
        self.calls, self.flaw = calls, flaw
        self.weights: list[Tensor] = []

    def __call__(self, model: Any, ids: Tensor, targets: Tensor) -> Tensor:
        self.weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
        loss = loss_sum(model, ids, targets)
        if len(self.weights) not in self.calls:
            return loss
        # The root of zero is zero, and its slope is infinite.
        return loss * math.nan if self.flaw == "loss" else loss + torch.sqrt(loss - loss)


@pytest.mark.parametrize("flaw", ["loss", "gradient"])
def test_what_is_not_a_number_ends_the_run_unless_told_otherwise(make_bench: Make, flaw: str) -> None:
    bench = make_bench(accumulation=1)
    bench.loss = Flawed({5}, flaw=flaw)

    with pytest.raises(TrainingError, match=f"the {flaw} of epoch 1, batches 4 to 4, is not a finite number"):
        bench.start()

    assert torch.isfinite(weights(bench)).all()


@pytest.mark.parametrize("flaw", ["loss", "gradient"])
def test_skipping_leaves_the_weights_as_they_were_and_goes_on_with_the_next_data(make_bench: Make, flaw: str) -> None:
    bench = make_bench(accumulation=1, on_nonfinite="skip")
    bench.loss = Flawed({5, 9}, flaw=flaw)

    result = bench.start()

    assert [(event.step, event.flaw, event.rolled_back_to) for event in events(bench, StepSkipped)] == [
        (5, flaw, None),
        (9, flaw, None),
    ]
    seen = bench.loss.weights  # before each step
    assert torch.equal(seen[4], seen[5])
    assert not torch.equal(seen[5], seen[6])
    assert len(seen) == result.progress.step == result.total_steps == 45
    assert (result.progress.skipped_steps, result.progress.rollbacks) == (2, 0)


def test_a_rollback_brings_back_the_newest_checkpoint_and_goes_on_with_the_next_data(make_bench: Make) -> None:
    bench = make_bench(accumulation=1, on_nonfinite="rollback", every_n_steps=3)
    bench.loss = Flawed({6})

    result = bench.start()

    assert [event.rolled_back_to for event in events(bench, StepSkipped)] == [3]
    seen = bench.loss.weights
    assert torch.equal(seen[6], seen[3])  # those before step 4
    assert not torch.equal(seen[6], seen[5])
    assert len(seen) == result.progress.step == result.total_steps
    assert result.progress.rollbacks == 1


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_three_flawed_steps_in_a_row_end_the_run_whatever_the_policy(make_bench: Make, policy: str) -> None:
    two, three = (make_bench(accumulation=1, on_nonfinite=policy) for _ in range(2))
    two.loss, three.loss = Flawed({7, 8}), Flawed({7, 8, 9})

    two.start()
    with pytest.raises(TrainingError, match="neither were those of the 2 steps before"):
        three.start()


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_run_with_flawed_steps_resumes_exactly(make_bench: Make, policy: str) -> None:
    straight, stopped = (make_bench(accumulation=1, on_nonfinite=policy) for _ in range(2))
    straight.loss, stopped.loss = Flawed({5, 20}), Flawed({5, 20})

    expected = straight.identity(straight.start())
    with pytest.raises(Preempted):
        stopped.start(stop_at=11)

    assert stopped.identity(stopped.resume()) == expected


def test_a_run_whose_first_steps_are_skipped_can_be_stopped_and_resumed(make_bench: Make) -> None:
    straight, stopped = (make_bench(accumulation=1, on_nonfinite="skip", every_n_steps=1) for _ in range(2))
    straight.loss, stopped.loss = Flawed({1, 2}), Flawed({1, 2})

    expected = straight.identity(straight.start())
    with pytest.raises(Preempted):
        stopped.start(stop_at=2)  # the checkpoint holds no moments yet

    assert stopped.identity(stopped.resume()) == expected


def test_a_last_step_that_is_followed_by_no_evaluation_leaves_no_weights_that_are_not_finite(make_bench: Make) -> None:
    bench = make_bench(epochs=1, max_steps=1, max_grad_norm=None, learning_rate=1e38, every_n_steps=None)
    bench.held_out = bench.held_out[:0]

    with pytest.raises(TrainingError, match=r"the weight .* is not finite"):
        bench.start()

    assert list(bench.folder.iterdir()) == []


@pytest.mark.parametrize(("factor", "kind"), [(0.0, "vanishing"), (1e6, "exploding")])
def test_odd_gradients_are_counted_and_told_of_once(make_bench: Make, factor: float, kind: str) -> None:
    bench = make_bench()
    bench.loss = lambda model, ids, targets: loss_sum(model, ids, targets) * factor

    result = bench.start()

    assert [event.kind for event in events(bench, OddGradient)] == [kind]
    counted = {"vanishing": result.progress.vanishing_steps, "exploding": result.progress.exploding_steps}
    assert counted == {"vanishing": 0, "exploding": 0, kind: result.progress.step}


def test_a_run_that_saves_nothing_leaves_no_mean_of_the_weights_that_is_not_finite(make_bench: Make) -> None:
    bench = make_bench(max_steps=2, every_n_steps=None, ema_decay=0.9)
    bench.held_out = bench.held_out[:0]

    def step_and_spoil(step: Callable[[], None]) -> None:
        step()
        bench.optimizer.state[bench.model.norm.weight]["mean_weight"][0] = float("inf")

    bench.optimizer_step = step_and_spoil

    with pytest.raises(TrainingError, match=r"the running mean of norm\.weight is not finite"):
        bench.start()
