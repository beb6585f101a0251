"""A run that must be exact does not go on where the last bits would differ."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from pipeline.errors import ExitCode, TrainingError
from pipeline.training.exact import require_same_execution
from pipeline.training.hardware import Execution

pytestmark = pytest.mark.unit

EARLIER = Execution(
    device="cpu",
    precision="32-true",
    compile_mode=None,
    num_threads=2,
    torch="2.13.0+cpu",
    cpu_capability="AVX512",
    gpu=None,
    arithmetic="0123456789abcdef",
)


def test_a_process_that_executes_the_same_may_go_on() -> None:
    process = replace(EARLIER)

    require_same_execution(process, EARLIER.to_dict())

    assert not process.differences(EARLIER.to_dict())


@pytest.mark.parametrize("name", [field.name for field in fields(Execution)])
def test_every_part_of_the_execution_fingerprint_counts(name: str) -> None:
    with pytest.raises(TrainingError, match=f"{name}: .* → other") as caught:
        require_same_execution(replace(EARLIER, **{name: "other"}), EARLIER.to_dict())

    assert caught.value.exit_code == ExitCode.TRAINING
    assert str(getattr(EARLIER, name)) in caught.value.hint


def test_every_difference_is_named_with_what_to_do_about_it() -> None:
    now = replace(EARLIER, num_threads=1, torch="2.14.0+cpu")

    with pytest.raises(TrainingError, match=r"num_threads: 2 → 1; torch: 2.13.0\+cpu → 2.14.0\+cpu") as caught:
        require_same_execution(now, EARLIER.to_dict())

    hint = "let the process use 2 processors (Linux: taskset); install torch 2.13.0+cpu; or go on without --exact"
    assert caught.value.hint.startswith(hint)
