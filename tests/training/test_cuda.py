"""Training on a CUDA device: exact on resume, close to the CPU, and out of memory for real."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.errors import Preempted
from pipeline.models.transformer import Transformer
from pipeline.stages.train_setup import prepare_loss
from pipeline.tasks.language_model import loss_sum
from pipeline.training.distributed import ALONE
from pipeline.training.events import MicroBatchShrunk, StepDone
from pipeline.training.hardware import choose_execution, make_deterministic, multiply_in_tf32
from pipeline.training.precision import PRECISIONS, LossScale
from pipeline.training.step import Stepper

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

Make = Callable[..., Any]
SHAPE = {"vocab_size": 64, "d_model": 64, "num_layers": 2, "num_heads": 2, "d_ff": 128, "max_seq_len": 32}
SPEC = """\
schema_version: 1
name: tiny
dataset: {source: {kind: files, paths: [text.txt]}, split_method: contiguous}
tokenizer: {vocab_size: 300}
model: {d_model: 32, num_layers: 2, num_heads: 2, d_ff: 64, max_seq_len: 32, dropout: 0.1}
training: {epochs: 100, max_steps: 120, batch_size: 8, gradient_accumulation_steps: 2}
hardware: {device: cuda, compile_mode: null}
checkpointing: {save_every_n_steps: 20}
"""


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    make_deterministic()
    multiply_in_tf32(allowed=False)
    yield
    torch.use_deterministic_algorithms(mode=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "specs").mkdir()
    (folder / "specs/experiment.yaml").write_text(SPEC)
    draw = random.Random(1)
    words = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "while", "wizards", "box"]
    (folder / "text.txt").write_text("\n".join(" ".join(draw.choices(words, k=8)) for _ in range(200)))
    for stage in ("corpus", "tokenizer"):
        subprocess.run([sys.executable, "-m", f"pipeline.stages.{stage}"], cwd=folder, check=True, capture_output=True)
    return folder


class Repeated:
    """Two batches an epoch, which are the same rows."""

    per_epoch, targets_per_epoch = 2, 2 * 16 * 32

    def __init__(self, batch: tuple[Tensor, ...]) -> None:
        self.rows = batch

    def batch(self, _epoch: int, _index: int) -> tuple[Tensor, ...]:
        return self.rows

    def targets_in(self, _epoch: int, _index: int) -> int:
        return 16 * 32


def make_sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.5)


def losses(bench: Any) -> list[float]:
    return [event.loss for event in bench.events if isinstance(event, StepDone)]


def weights(bench: Any) -> Tensor:
    return torch.cat([parameter.detach().float().cpu().flatten() for parameter in bench.model.parameters()])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_that_was_stopped_ends_bit_for_bit_as_one_that_was_not(
    make_bench: Make, precision: str, optimizer: str
) -> None:
    straight, stopped = (
        make_bench(device="cuda", precision=precision, optimizer_name=optimizer, try_first=True) for _ in range(2)
    )

    expected = straight.identity(straight.start())
    with pytest.raises(Preempted):
        stopped.start(stop_at=13)

    assert stopped.identity(stopped.resume()) == expected


def test_a_gpu_trains_what_the_cpu_trains(make_bench: Make) -> None:
    there, here = (make_bench(device=device, dropout=0.0) for device in ("cuda", "cpu"))

    there.start()
    here.start()

    assert losses(there) == pytest.approx(losses(here), rel=1e-4)


@pytest.mark.parametrize("separate_documents", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_attention_gives_the_logits_and_gradients_of_the_one_written_out(
    separate_documents: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(3)
    model = Transformer(**SHAPE, separate_documents=separate_documents)
    ids, targets = torch.randint(0, 64, (2, 3, 32)).unbind()
    found = {}
    for device in ("cpu", "cuda"):
        model.to(device).zero_grad()
        with torch.autocast(device, dtype=dtype, enabled=dtype is not torch.float32):
            loss = loss_sum(model, ids.to(device), targets.to(device)) / targets.numel()
        loss.backward()
        gradient = torch.cat([parameter.grad.cpu().flatten() for parameter in model.parameters()])
        found[device] = (loss.item(), gradient)

    bound = 1e-5 if dtype is torch.float32 else 2e-2
    assert found["cuda"][0] == pytest.approx(found["cpu"][0], rel=bound)
    assert (found["cuda"][1] - found["cpu"][1]).norm() < 2 * bound * found["cpu"][1].norm()


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")  # which are off, for the comparison
def test_gradients_of_micro_batches_add_up_in_replayed_graphs_as_they_do_eagerly() -> None:
    torch.manual_seed(4)
    batch = torch.randint(0, 64, (2, 16, 32)).unbind()
    found = {}
    for mode in (None, "default", "reduce-overhead"):
        torch.manual_seed(5)
        model = Transformer(**SHAPE).cuda()
        execution = choose_execution(
            device="cuda", precision="32-true", use_amp=None, compile_mode=mode, num_threads=1, flops=0.0
        )
        loss, execution = prepare_loss(
            partial(loss_sum, model),
            model,
            execution,
            [rows[:4] for rows in batch],
            fullgraph=False,
            dynamic=False,
            insist=True,
        )
        optimizer = make_sgd(model)
        stepper = Stepper(
            model,
            optimizer,
            Repeated(batch),
            loss,
            max_grad_norm=None,
            rows=4,
            on_smaller=lambda _: pytest.fail("memory ran out"),
            scale=LossScale("cuda", enabled=False),
            world=ALONE,
            try_first=True,
        )
        losses_of_steps = []
        for _ in range(4):
            losses_of_steps.append(stepper.gradients(0, range(2)).nats)
            stepper.apply()
        found[mode] = (losses_of_steps, [p.detach().cpu().clone() for p in model.parameters()])

    for mode in ("default", "reduce-overhead"):
        assert found[mode][0] == pytest.approx(found[None][0], rel=1e-5)
        for parameter, expected in zip(found[mode][1], found[None][1], strict=True):
            torch.testing.assert_close(parameter, expected, atol=1e-5, rtol=0)


def needs_memory(rows: int, megabytes: int, model: Any, ids: Tensor, targets: Tensor) -> Tensor:
    """The loss; more rows than these also ask the device for memory that it does not have."""
    if len(ids) > rows:
        torch.empty(megabytes * 1_000_000, dtype=torch.uint8, device=ids.device)
    return loss_sum(model, ids, targets)


@pytest.mark.parametrize(("rows", "halvings"), [(2, [2]), (1, [2, 1])])
def test_a_step_that_does_not_fit_into_the_memory_of_the_gpu_is_taken_in_smaller_pieces(
    make_bench: Make, rows: int, halvings: list[int]
) -> None:
    roomy, tight = (make_bench(device="cuda", dropout=0.0) for _ in range(2))
    roomy.start()
    more_than_there_is = torch.cuda.mem_get_info()[1] // 1_000_000 + 1000
    tight.loss = partial(needs_memory, rows, more_than_there_is)

    result = tight.start()

    assert [event.rows for event in tight.events if isinstance(event, MicroBatchShrunk)] == halvings
    assert result.progress.micro_batch_rows == rows
    torch.testing.assert_close(weights(tight), weights(roomy), atol=2e-4, rtol=0)


def test_a_run_on_the_cpu_does_not_wake_the_gpu(project: Path) -> None:
    code = "import torch; from pipeline.stages.train import main\n"
    code += "try: main([])\nfinally: print('awake', torch.cuda.is_initialized())"
    spec = project / "cpu.yaml"
    spec.write_text(SPEC.replace("device: cuda", "device: cpu").replace("max_steps: 120", "max_steps: 21"))

    done = subprocess.run(
        [sys.executable, "-c", code.replace("[]", f"['--spec', '{spec}']")],
        cwd=project,
        env={**os.environ, "FOUNDRY_WORK": str(project / "cpu")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "awake False" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "settings",
    [
        ("--eager", "--precision", "32-true"),
        ("--eager", "--precision", "bf16-mixed"),
        ("--compile", "--precision", "bf16-mixed"),
        ("--set", "hardware.compile_mode=reduce-overhead", "--precision", "bf16-mixed"),
    ],
    ids=" ".join,
)
def test_kills_leave_no_trace_on_a_gpu(project: Path, settings: tuple[str, ...], tmp_path: Path) -> None:
    proof = tmp_path / "proof.json"
    command = [sys.executable, "-m", "pipeline", "prove-resume", "--kills", "3", "--output", str(proof), *settings]

    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(proof.read_text())["execution"]["device"] == "cuda"
