"""What a run executes on: device, precision, compilation, threads.

What is `auto` is decided here, once, by what this machine has; the decision is kept with the run, so that a
resume makes the same one.
"""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from pipeline.errors import TrainingError
from pipeline.training.precision import PRECISIONS, SHORT_FORMS

# Compiling costs half a minute and gains about a third (docs/performance.md, plain loop): worth it from about two
# minutes of arithmetic on two cores.
_FLOPS_WORTH_COMPILING = 2e13
_ROUNDS = 25  # of about 6 ms
_BF16_MUST_GAIN = 1.5  # matrix products are part of a step only: a smaller gain is eaten by the conversions
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # <malloc.h>


@dataclass(frozen=True)
class Execution:
    """Everything that decides the last bits of the arithmetic, besides spec, data and code."""

    device: str  # cpu or cuda
    precision: str  # a key of PRECISIONS
    compile_mode: str | None  # what really ran; None is eager
    num_threads: int
    torch: str  # version and build
    cpu_capability: str  # instruction set of torch's own kernels
    gpu: str | None
    arithmetic: str | None = None  # of `arithmetic_of`: what the same first batch came to; None: not tried

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)

    def differences(self, other: dict[str, Any]) -> list[str]:
        """What an earlier execution had otherwise, as `name: then → now`."""
        mine = self.to_dict()
        if self.arithmetic is None or other.get("arithmetic") is None:  # one of them did not try
            del mine["arithmetic"]
        return [f"{name}: {other.get(name)} → {value}" for name, value in mine.items() if other.get(name) != value]


def choose_execution(
    *,
    device: str,
    precision: str,
    use_amp: bool | None,
    compile_mode: str | None,
    num_threads: int | None,
    flops: float,
    passes: int = 1,
    earlier: dict[str, Any] | None = None,
) -> Execution:
    """Decide what a run executes on, and set torch's threads accordingly.

    Args:
        device: `auto`, `cpu` or `cuda`.
        precision: `auto`, a key of `PRECISIONS`, or the short form of one (`32`, `bf16`, `16`).
        use_amp: False takes float32 instead of what is mixed; None and True leave it to `precision`.
        compile_mode: `auto`, a mode of torch.compile, or None.
        num_threads: CPU threads; None takes the processors this process may use.
        flops: floating-point operations of the whole run, to weigh compilation.
        passes: forward and backward passes of a step. Only what takes one has been measured with replayed graphs.
        earlier: the execution of the run that is being resumed; `auto` keeps its choices.

    Raises:
        TrainingError: CUDA is asked for and absent, or compilation is asked for without a C++ compiler.
    """
    kept = earlier or {}
    if device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("hardware.device is cuda, but torch finds no CUDA device", hint="set it to auto or cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = num_threads or usable_processors()
    torch.set_num_threads(threads)
    precision = SHORT_FORMS.get(precision, precision)
    if use_amp is False and (precision == "auto" or PRECISIONS[precision].mixed):
        precision = "32-true"
    if precision == "auto":
        precision = kept.get("precision") or ("bf16-mixed" if bf16_pays(device) else "32-true")
    if compile_mode == "auto":
        # A GPU computes a kernel of a small model in less time than it takes to launch it: graphs are replayed whole.
        mode = "reduce-overhead" if device == "cuda" and passes == 1 else "default"
        compile_mode = kept.get("compile_mode", mode if worth_compiling(flops) and has_compiler() else None)
    elif compile_mode is not None and not has_compiler():
        raise TrainingError(
            f"hardware.compile_mode is {compile_mode}, but there is no C++ compiler",
            hint="install g++ or clang, or set compile_mode to auto or null",
        )
    return Execution(
        device=device,
        precision=precision,
        compile_mode=compile_mode,
        num_threads=threads,
        torch=torch.__version__,
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        gpu=torch.cuda.get_device_name() if device == "cuda" else None,
    )


def worth_compiling(flops: float) -> bool:
    """Whether a run of so many floating-point operations gains more from torch.compile than it costs."""
    return flops >= _FLOPS_WORTH_COMPILING


def usable_processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def has_compiler() -> bool:
    """Whether the C++ compiler that torch.compile would call is there."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++") if name)


def bf16_pays(device: str) -> bool:
    """Whether bfloat16 matrix products are clearly faster than float32 ones here.

    Measured, not looked up: of two processors that list bfloat16 instructions, one runs them at seven times the
    speed of float32 and the other at half. On one thread, in turns, and the best of many: other load on the machine
    only ever adds time, most of all to threads that wait for each other, and must not hit one type alone.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    best = {torch.float32: math.inf, torch.bfloat16: math.inf}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(_ROUNDS):
        for dtype, seconds in best.items():
            best[dtype] = min(seconds, _matmul_seconds(dtype))
    torch.set_num_threads(threads)
    return best[torch.float32] > _BF16_MUST_GAIN * best[torch.bfloat16]


def _matmul_seconds(dtype: torch.dtype) -> float:
    size = 512  # 0.3 GFLOP: a millisecond or so
    a, b = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
    torch.mm(a, b)  # brings them into the caches
    started = time.perf_counter()
    torch.mm(a, b)
    return time.perf_counter() - started


def keeping_random_states(device: str) -> AbstractContextManager[None]:
    """A context that leaves no trace in torch's random states; on `cpu` it does not wake a GPU."""
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device == "cuda" else ())


def memory_mb(device: str) -> dict[str, float | None]:
    """Memory of this process and of its CUDA device, in MB of 1,000,000 bytes; None for what there is not."""
    found: dict[str, float | None] = {"rss_mb": psutil.Process().memory_info().rss / 1e6}
    cuda = {
        "cuda_allocated_mb": torch.cuda.memory_allocated,
        "cuda_reserved_mb": torch.cuda.memory_reserved,
        "cuda_peak_mb": torch.cuda.max_memory_allocated,
    }
    return found | {name: measure() / 1e6 if device == "cuda" else None for name, measure in cuda.items()}


def keep_freed_memory() -> None:
    """Tell the C library to keep memory that is freed (glibc only; elsewhere it does nothing).

    A step frees and takes the same large arrays again; giving them back in between costs a page fault for every
    4 KiB of them.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_TOP_PAD, 2**26)  # bytes taken at a time


def multiply_in_tf32(allowed: bool) -> None:
    """Say whether a CUDA device may round the factors of float32 products to TF32, with 10 of 23 bits of mantissa."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def make_deterministic() -> None:
    """Use deterministic kernels only; torch raises where an operation has none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(mode=True)
    torch.backends.cudnn.benchmark = False
    # Filling fresh memory would only cost time: we read none that we did not write.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
