"""Precisions: exact on resume each, the loss scale of float16, layers computed again."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_bench import Bench

from pipeline.errors import Preempted, TrainingError
from pipeline.models.cnn import Cnn
from pipeline.models.store import copy_weights
from pipeline.models.transformer import Transformer
from pipeline.tasks.language_model import loss_sum
from pipeline.training.checkpoint import newest_checkpoint
from pipeline.training.events import LossScaleLowered, StepDone, StepSkipped
from pipeline.training.precision import (
    PRECISIONS,
    LossScale,
    arithmetic,
    convert_weights,
    in_float32,
)

pytestmark = pytest.mark.unit

Make = Callable[..., Any]
SHAPE = {"vocab_size": 40, "d_model": 16, "num_layers": 3, "num_heads": 2, "d_ff": 32, "max_seq_len": 8}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run in each precision that was killed after step 13."""
    folder = tmp_path_factory.mktemp("killed")
    beside = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, Path(__file__).with_name("killed_runs.py"), folder], check=True, env=beside)
    return folder


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_run_that_was_killed_ends_bit_for_bit_as_one_that_was_not(
    make_bench: Make, killed: Path, precision: str
) -> None:
    straight = make_bench(precision=precision)
    again = Bench(killed / precision, precision=precision)
    checkpoint, _ = newest_checkpoint(again.folder)
    assert checkpoint is not None
    assert checkpoint.step == 12

    expected = straight.identity(straight.start())

    assert again.identity(again.resume()) == expected


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_gradients_moments_and_checkpoints_have_the_type_of_the_precision(
    make_bench: Make, precision: str
) -> None:
    bench = make_bench(precision=precision, last=True)
    expected = PRECISIONS[precision].weights

    bench.start()
    checkpoint, _ = newest_checkpoint(bench.folder)

    moments = [tensor for name, tensor in checkpoint.moments.items() if name.startswith("exp_avg")]
    gradients = [parameter.grad for parameter in bench.model.parameters()]
    for tensors in (bench.model.parameters(), gradients, moments, checkpoint.weights.values()):
        assert {tensor.dtype for tensor in tensors} == {expected}
    assert {table.dtype for table in bench.model.buffers()} == {torch.float32}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_learns_a_text_that_repeats(make_bench: Make, precision: str) -> None:
    bench = make_bench(precision=precision, epochs=6, dropout=0.0, learning_rate=1e-2)
    bench.tokens = (torch.arange(461) % 7).numpy().astype("uint16")
    bench.held_out = bench.tokens[:100]

    result = bench.start()

    assert result.progress.best_val_loss < 1.0


def test_mixed_precisions_are_close_to_float32_and_not_equal_to_it(make_bench: Make) -> None:
    losses = {}
    for precision in PRECISIONS:
        bench = make_bench(precision=precision, dropout=0.0, epochs=1)
        bench.start()
        losses[precision] = [event.loss for event in bench.events if isinstance(event, StepDone)]

    for precision in PRECISIONS.keys() - {"32-true"}:
        assert losses[precision] == pytest.approx(losses["32-true"], rel=5e-3)
        assert losses[precision] != losses["32-true"]


def overflowing(above: float, calls: range) -> Callable[..., torch.Tensor]:
    """A loss whose gradients overflow in some calls, wherever what it is scaled by is above a value."""
    count = iter(range(10_000))

    def loss(model: Any, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        value = loss_sum(model, ids, targets)
        return value + _Overflows.apply(value, above) if next(count) in calls else value

    return loss


class _Overflows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, above: float) -> torch.Tensor:
        ctx.above = above
        return torch.zeros_like(loss)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return (gradient * math.inf if gradient > ctx.above else torch.zeros_like(gradient)), None


def test_the_loss_scale_falls_until_gradients_fit_and_no_policy_is_asked(make_bench: Make) -> None:
    bench = make_bench(precision="16-mixed", accumulation=1, on_nonfinite="stop")
    bench.loss = overflowing(250.0, range(5, 10_000))

    result = bench.start()

    lowered = [event for event in bench.events if isinstance(event, LossScaleLowered)]
    assert [event.scale for event in lowered][:3] == [32768.0, 16384.0, 8192.0]
    assert [event.step for event in lowered][:3] == [6, 7, 8]  # three in a row, and the run goes on
    assert result.progress.overflowed_steps == len(lowered)
    assert result.progress.loss_scale == lowered[-1].scale
    assert result.progress.skipped_steps == 0
    assert result.progress.step == result.total_steps
    assert len([event for event in bench.events if isinstance(event, StepDone)]) == 45 - len(lowered)


def test_a_gradient_that_is_not_finite_at_the_smallest_scale_is_for_the_policy(make_bench: Make) -> None:
    bench = make_bench(precision="16-mixed", accumulation=1, on_nonfinite="skip")
    bench.loss = overflowing(0.0, range(2, 10_000))

    with pytest.raises(TrainingError, match="is not a finite number, and neither were those of the 2 steps before"):
        bench.start()

    lowered = [event.scale for event in bench.events if isinstance(event, LossScaleLowered)]
    assert lowered == [2.0**exponent for exponent in range(15, -1, -1)]
    assert len([event for event in bench.events if isinstance(event, StepSkipped)]) == 2


def test_a_loss_that_is_not_finite_is_for_the_policy_whatever_the_scale(make_bench: Make) -> None:
    bench = make_bench(precision="16-mixed")
    bench.loss = lambda model, ids, targets: loss_sum(model, ids, targets) * math.nan

    with pytest.raises(TrainingError, match="the loss of epoch 1"):
        bench.start()


def test_the_loss_scale_survives_a_restart(make_bench: Make) -> None:
    straight, stopped = (make_bench(precision="16-mixed", accumulation=1) for _ in range(2))
    straight.loss = overflowing(500.0, range(3, 10_000))
    stopped.loss = overflowing(500.0, range(3, 10_000))

    expected = straight.identity(straight.start())
    with pytest.raises(Preempted):
        stopped.start(stop_at=8)
    stopped.loss = overflowing(500.0, range(10_000))

    assert stopped.identity(stopped.resume()) == expected
    assert expected["progress"]["loss_scale"] < 2.0**15
    assert expected["progress"]["loss_scale_steps"] > 0


def test_a_run_in_which_no_step_was_taken_is_an_error(make_bench: Make) -> None:
    bench = make_bench(precision="16-mixed", accumulation=1, max_steps=2)
    bench.loss = overflowing(0.0, range(10_000))

    with pytest.raises(TrainingError, match="no step was taken") as caught:
        bench.start()

    assert "more steps" in caught.value.hint


def test_the_loss_scale_doubles_after_2000_steps_without_overflow() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight])
    scale = LossScale("cpu", enabled=True, value=1024.0, steps=1998)

    seen = []
    for _ in range(3):
        optimizer.zero_grad()
        scale.scaled(weight.sum()).backward()
        assert not scale.unscale(optimizer)
        assert weight.grad.tolist() == [1.0, 1.0, 1.0]
        seen.append((scale.value, scale.steps))

    assert seen == [(1024.0, 1999), (2048.0, 0), (2048.0, 1)]


def test_what_needs_no_scale_has_none() -> None:
    scale = LossScale("cpu", enabled=False)
    loss = torch.tensor(3.0)

    assert scale.scaled(loss) is loss
    assert (scale.value, scale.steps) == (None, 0)


def test_weights_in_16_bits_are_judged_in_float32_and_left_as_they_are() -> None:
    model = Transformer(**SHAPE)
    assert in_float32(model) is model

    convert_weights(model, "bf16-true")
    judged = in_float32(model)

    assert {parameter.dtype for parameter in judged.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    for name, parameter in judged.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name).float())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_convolutional_network_computes_in_every_precision(precision: str) -> None:
    torch.manual_seed(0)
    model = Cnn(image_size=[1, 8, 8], num_classes=4, channel_mean=[0.5], channel_std=[0.25]).train()
    pictures = torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8)
    expected = model(pictures)

    convert_weights(model, precision)
    with arithmetic("cpu", precision):
        logits = model(pictures)
    logits.sum().backward()

    torch.testing.assert_close(logits, expected, rtol=0, atol=0.05)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_model_folder_gets_float32_weights_whatever_was_trained(tmp_path: Path) -> None:
    halves = {"a": torch.tensor([1.5, -2.25], dtype=torch.bfloat16)}
    save_file(halves, tmp_path / "half.safetensors")
    save_file({"a": torch.tensor([0.1])}, tmp_path / "full.safetensors")

    copy_weights(tmp_path / "half.safetensors", tmp_path / "a.safetensors")
    copy_weights(tmp_path / "full.safetensors", tmp_path / "b.safetensors")

    assert load_file(tmp_path / "a.safetensors")["a"].dtype == torch.float32
    assert load_file(tmp_path / "a.safetensors")["a"].tolist() == [1.5, -2.25]
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "full.safetensors").read_bytes()


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-true"])
@pytest.mark.parametrize("model_type", ["llama", "gpt"])
def test_layers_computed_again_give_the_same_gradients_and_random_state_bit_for_bit(
    model_type: str, precision: str
) -> None:
    found = []
    for recompute in (False, True):
        torch.manual_seed(3)
        model = Transformer(**SHAPE, model_type=model_type, dropout=0.3).train()
        model.recompute = recompute
        convert_weights(model, precision)
        ids = torch.randint(40, (4, 8))
        with arithmetic("cpu", precision):
            loss = loss_sum(model, ids, ids.roll(-1, 1))
        loss.backward()
        gradients = torch.cat([parameter.grad.flatten().float() for parameter in model.parameters()])
        found.append((loss.item(), gradients, torch.get_rng_state()))

    (loss, gradients, state), (again, same, after) = found
    assert loss == again
    assert gradients.abs().sum() > 0
    assert torch.equal(gradients, same)
    assert torch.equal(state, after)
