"""What a run executes on: `auto` is decided by what is there, and decided again the same way on resume."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.errors import TrainingError
from pipeline.training import hardware
from pipeline.training.hardware import choose_execution

pytestmark = pytest.mark.unit

AUTO: dict[str, Any] = {
    "device": "cpu",
    "precision": "auto",
    "use_amp": None,
    "compile_mode": "auto",
    "num_threads": 1,
}
LONG, SHORT = 1e15, 1e9  # floating-point operations of a run


def test_the_faster_precision_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {torch.float32: 2.0, torch.bfloat16: 1.0}
    monkeypatch.setattr(hardware, "_matmul_seconds", seconds.__getitem__)
    assert choose_execution(**AUTO, flops=SHORT).precision == "bf16-mixed"

    seconds[torch.bfloat16] = 1.9  # not enough to pay for the conversions
    assert choose_execution(**AUTO, flops=SHORT).precision == "32-true"


def test_matrix_products_are_really_timed() -> None:
    assert 0 < hardware._matmul_seconds(torch.float32) < 10


def test_a_resume_keeps_what_auto_chose_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "bf16_pays", lambda _device: False)
    earlier = {"precision": "bf16-mixed", "compile_mode": None}

    execution = choose_execution(**AUTO, flops=LONG, earlier=earlier)

    assert (execution.precision, execution.compile_mode) == ("bf16-mixed", None)


@pytest.mark.parametrize(
    ("compiler", "flops", "expected"), [(True, LONG, "default"), (True, SHORT, None), (False, LONG, None)]
)
def test_auto_compiles_when_it_can_and_when_it_pays(
    monkeypatch: pytest.MonkeyPatch, compiler: bool, flops: float, expected: str | None
) -> None:
    monkeypatch.setattr(hardware, "has_compiler", lambda: compiler)

    assert choose_execution(**AUTO, flops=flops).compile_mode == expected


@pytest.mark.parametrize(("device", "passes", "expected"), [("cuda", 1, "reduce-overhead"), ("cuda", 4, "default")])
def test_a_gpu_replays_graphs_where_a_step_is_one_pass(
    monkeypatch: pytest.MonkeyPatch, device: str, passes: int, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")

    chosen = choose_execution(**{**AUTO, "device": device, "precision": "32-true"}, flops=LONG, passes=passes)

    assert chosen.compile_mode == expected


def test_compilation_asked_for_by_name_needs_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)

    with pytest.raises(TrainingError, match="no C\\+\\+ compiler") as caught:
        choose_execution(**{**AUTO, "compile_mode": "default"}, flops=SHORT)

    assert "g++" in caught.value.hint


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_asked_for_and_absent_is_an_error() -> None:
    with pytest.raises(TrainingError, match="no CUDA device"):
        choose_execution(**{**AUTO, "device": "cuda"}, flops=SHORT)


def test_an_execution_says_how_it_differs_from_an_earlier_one() -> None:
    execution = choose_execution(**AUTO, flops=SHORT)

    assert execution.differences(execution.to_dict()) == []
    assert execution.differences({**execution.to_dict(), "num_threads": 7}) == ["num_threads: 7 → 1"]


def test_threads_are_those_asked_for() -> None:
    choose_execution(**{**AUTO, "num_threads": 2}, flops=SHORT)
    assert torch.get_num_threads() == 2

    choose_execution(**AUTO, flops=SHORT)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("precision", "use_amp", "expected"),
    [
        ("32", None, "32-true"),
        ("bf16", True, "bf16-mixed"),
        ("bf16-mixed", False, "32-true"),
        ("auto", False, "32-true"),
    ],
)
def test_short_forms_are_understood_and_mixed_precision_can_be_forbidden(
    precision: str, use_amp: bool | None, expected: str
) -> None:
    execution = choose_execution(**{**AUTO, "precision": precision, "use_amp": use_amp}, flops=SHORT)

    assert execution.precision == expected
