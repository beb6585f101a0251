"""The loop: token-weighted accumulation, stopping, clipping, what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipeline.errors import TrainingError
from pipeline.training.events import CheckpointSaved, EpochDone, StepDone

pytestmark = pytest.mark.unit

Make = Callable[..., Any]


def weights(bench: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in bench.model.parameters()])


def steps(bench: Any) -> list[StepDone]:
    return [event for event in bench.events if isinstance(event, StepDone)]


@pytest.mark.parametrize(("batch_size", "accumulation"), [(2, 8), (4, 4), (8, 2)])
def test_micro_batches_of_any_size_give_the_update_of_the_whole_batch(
    make_bench: Make, batch_size: int, accumulation: int
) -> None:
    # 58 windows: the last step of an epoch is ragged, and the first and last window have fewer targets
    whole = make_bench(batch_size=16, accumulation=1, dropout=0.0, epochs=2)
    pieces = make_bench(batch_size=batch_size, accumulation=accumulation, dropout=0.0, epochs=2)

    whole.start()
    pieces.start()

    assert len(steps(whole)) == len(steps(pieces)) == 8
    assert [step.loss for step in steps(pieces)] == pytest.approx([step.loss for step in steps(whole)], rel=1e-4)
    torch.testing.assert_close(weights(pieces), weights(whole), atol=2e-4, rtol=0)


def test_the_batches_left_over_at_the_end_of_an_epoch_are_learned_from(make_bench: Make) -> None:
    bench = make_bench(batch_size=4, accumulation=4, epochs=2)

    result = bench.start()

    assert bench.batches.per_epoch == 15
    assert result.progress.step == 8
    assert result.progress.tokens == 2 * 460


def test_the_loss_of_a_repeated_text_falls(make_bench: Make) -> None:
    bench = make_bench(epochs=12, dropout=0.0, learning_rate=2e-2)
    bench.tokens = (torch.arange(461) % 7).numpy().astype("uint16")
    bench.held_out = bench.tokens[:100]

    result = bench.start()

    assert steps(bench)[0].loss > 3.5
    assert result.progress.best_val_loss is not None
    assert result.progress.best_val_loss < 0.5


def test_epochs_report_the_mean_over_their_tokens(make_bench: Make) -> None:
    bench = make_bench(learning_rate=1e-9, dropout=0.0)

    bench.start()

    epochs = [event for event in bench.events if isinstance(event, EpochDone)]
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3]
    assert [epoch.train_loss for epoch in epochs] == pytest.approx([3.689] * 3, abs=0.05)
    assert all(epoch.val_loss is not None for epoch in epochs)


def test_training_stops_early_after_evaluations_without_gain(make_bench: Make) -> None:
    bench = make_bench(eval_every_n_steps=2, patience=3)
    losses = iter([3.0, 2.0, 2.1, 1.95, 2.2, 2.3, 2.4, 0.0])
    bench.evaluate = lambda: next(losses)

    result = bench.start()

    assert result.progress.stopped_early
    assert (result.progress.step, result.progress.best_step) == (14, 8)


def test_a_gain_below_the_margin_is_none(make_bench: Make) -> None:
    bench = make_bench(eval_every_n_steps=2, patience=2, min_delta=0.1)
    losses = iter([3.0, 2.95, 2.92])
    bench.evaluate = lambda: next(losses)

    assert bench.start().progress.best_step == 2


@pytest.mark.parametrize("limit", [0.01, None])
def test_gradients_are_clipped_to_the_limit_and_reported_as_they_were(make_bench: Make, limit: float | None) -> None:
    bench = make_bench(max_grad_norm=limit, epochs=1)

    bench.start()

    left = torch.nn.utils.get_total_norm([parameter.grad for parameter in bench.model.parameters()]).item()
    reported = steps(bench)[-1].gradient_norm
    assert reported > 0.1
    assert left == pytest.approx(reported if limit is None else 0.01, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_the_run_before_the_step(make_bench: Make) -> None:
    bench = make_bench(learning_rate=1e30, max_grad_norm=None, every_n_steps=1)

    with pytest.raises(TrainingError, match=r"(loss|gradient|weight) .*not (a )?finite"):
        bench.start()

    for path in bench.folder.glob("*/model.safetensors"):
        from safetensors.torch import load_file

        assert all(bool(tensor.isfinite().all()) for tensor in load_file(path).values())


def test_a_validation_loss_that_is_not_finite_stops_the_run(make_bench: Make) -> None:
    bench = make_bench()
    bench.evaluate = lambda: float("nan")

    with pytest.raises(TrainingError, match="validation loss"):
        bench.start()


def test_most_steps_end_a_run_inside_an_epoch(make_bench: Make) -> None:
    bench = make_bench(max_steps=5)

    result = bench.start()

    assert result.progress.step == 5
    assert steps(bench)[-1].val_loss is not None
    assert len(result.progress.epoch_history) == 1


@pytest.mark.parametrize(("interval", "saved"), [(None, []), (1, [8, 16, 24]), (2, [16])])
def test_checkpoints_come_at_the_end_of_every_nth_epoch(
    make_bench: Make, interval: int | None, saved: list[int]
) -> None:
    bench = make_bench(every_n_steps=None, every_n_epochs=interval, eval_every_n_steps=1000)

    bench.start()

    gains = {event.step for event in steps(bench) if event.improved}
    found = [event.step for event in bench.events if isinstance(event, CheckpointSaved)]
    assert [step for step in found if step not in gains or step in saved] == saved
