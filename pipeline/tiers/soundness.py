"""Tier 1: does the model take every shape, pass gradients on, give sensible numbers, and at what cost?"""

from __future__ import annotations

import copy
import math
import os
import statistics
import time
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from pipeline.models.cnn import Cnn
from pipeline.models.transformer import ShortConv
from pipeline.tiers.examples import random_batch
from pipeline.tiers.normality import shapiro_wilk
from pipeline.tiers.subject import Outcome, Subject, logits

_MB = 1_000_000  # bytes
_SHOWN = 5  # names in a message; the details hold all
_NORMALITY_LEAST = 12  # values: a few inputs of a few classes give fewer, and the test is for no fewer
_GROWTH = 1.1  # of memory, over that of the batch: what does not depend on the rows makes it less


def shape_robustness(subject: Subject) -> Outcome:
    """Every shape gives finite logits of the right shape."""
    shapes, wrong = list(_shapes(subject)), []
    for batch, length in shapes:
        found = logits(subject.model, subject.inputs(batch, length))
        expected = subject.model.logits_shape(batch, length)
        if tuple(found.shape) != expected:
            wrong.append(f"{batch} x {length} gives {tuple(found.shape)}")
        elif not bool(found.isfinite().all()):
            wrong.append(f"{batch} x {length} gives NaN or Infinity")
    shown = [f"{batch}x{length}" for batch, length in shapes]
    measured = "; ".join(wrong) or f"{len(shapes)} shapes, {', '.join(shown)}"
    return _outcome(wrong, measured, "finite logits of the right shape for each", {"shapes": shown, "wrong": wrong})


def _shapes(subject: Subject) -> Iterator[tuple[int, int]]:
    """The shapes of the settings, of which those that are too long for the model are left out."""
    seen = set()
    for shape in subject.settings["shapes"]["batches"]:
        pictures = isinstance(subject.model, Cnn)
        longest = 1 if pictures else subject.model.max_seq_len
        length = 1 if pictures else shape["seq_len"] or longest
        if length <= longest and (shape["batch_size"], length) not in seen:
            seen.add((shape["batch_size"], length))
            yield shape["batch_size"], length


def gradient_flow(subject: Subject) -> Outcome:
    """Every parameter gets a finite gradient of a sensible size."""
    limits = subject.settings["gradient_flow"]
    model = copy.deepcopy(subject.model)
    batch = random_batch(subject, limits["batch_size"], subject.length(limits["seq_len"]))
    loss = subject.task.loss(model, *batch)
    (loss / batch[-1].numel()).backward()  # type: ignore[no-untyped-call]
    mean = loss.item() / batch[-1].numel()
    norms = {
        name: None if parameter.grad is None else float(parameter.grad.norm())
        for name, parameter in model.named_parameters()
    }
    found = {
        "without a gradient": [name for name, norm in norms.items() if norm is None],
        "not finite": [name for name, norm in norms.items() if norm is not None and not math.isfinite(norm)],
        "exploding": [name for name, norm in norms.items() if norm is not None and norm > limits["explosion_norm"]],
        "vanishing": [
            name
            for name, norm in norms.items()
            if norm is not None and norm < limits["vanishing_norm"] and not _cancels(name)
        ],
    }
    finite = [norm for name, norm in norms.items() if norm is not None and math.isfinite(norm) and not _cancels(name)]
    details = {
        "loss": _finite(mean),
        "smallest_norm": min(finite, default=None),
        "largest_norm": max(finite, default=None),
        **{kind.replace(" ", "_"): names for kind, names in found.items()},
    }
    limit = f"each norm from {limits['vanishing_norm']:g} to {limits['explosion_norm']:g}"
    flaws = [f"{kind}: {_some(names)}" for kind, names in found.items() if names]
    if flaws:
        only_small = not any(names for kind, names in found.items() if kind != "vanishing")
        return Outcome("warning" if only_small else "failed", "; ".join(flaws), limit, details)
    return Outcome("passed", f"{len(norms)} norms from {min(finite):.2g} to {max(finite):.2g}", limit, details)


def _cancels(name: str) -> bool:
    """Whether a parameter adds the same to all scores of a query, which the softmax takes out again."""
    return name.endswith("k_proj.bias")


def output_stability(subject: Subject) -> Outcome:
    """Logits of random inputs are finite and neither all alike nor wild."""
    limits = subject.settings["output_stability"]
    count, length = limits["samples"], subject.length(limits["seq_len"])
    rows = subject.inputs(count, length)
    total = squares = 0.0
    values = broken = 0
    kept: list[float] = []
    for index in range(count):  # one at a time: the logits of all would be gigabytes for a large vocabulary
        found = logits(subject.model, rows[index : index + 1]).double().flatten()
        broken += int((~found.isfinite()).sum())
        total, squares, values = total + float(found.sum()), squares + float(found.square().sum()), values + len(found)
        kept += _spread(found, -(-limits["normality_values"] // count))
    limit = (
        f"finite, deviation from {limits['collapsed_std']:g} to {limits['unstable_std']:g}, "
        f"mean within {limits['max_abs_mean']:g}"
    )
    if broken:
        return Outcome("failed", f"{broken} of {values} logits are NaN or Infinity", limit, {"not_finite": broken})
    mean = total / values
    deviation = math.sqrt(max(0.0, squares / values - mean**2))
    details = {"mean": mean, "std": deviation, "values": values, **_normality(kept[: limits["normality_values"]])}
    measured = f"{values} logits of mean {mean:.3g} and deviation {deviation:.3g}"
    if not limits["collapsed_std"] <= deviation <= limits["unstable_std"]:
        return Outcome("failed", measured, limit, details)
    return Outcome("warning" if abs(mean) > limits["max_abs_mean"] else "passed", measured, limit, details)


def _spread(values: Tensor, count: int) -> list[float]:
    """So many of the values, evenly spread over them."""
    places = torch.linspace(0, len(values) - 1, min(count, len(values))).long()
    found: list[float] = values[places].tolist()
    return found


def _normality(values: list[float]) -> dict[str, float]:
    """The Shapiro-Wilk test, which is reported and judges nothing: logits of a trained model are not normal."""
    if len(values) < _NORMALITY_LEAST or max(values) == min(values):
        return {}
    statistic, p_value = shapiro_wilk(values)
    return {"shapiro_w": statistic, "shapiro_p": p_value}


def parameter_initialization(subject: Subject) -> Outcome:
    """Every weight is a finite number, and each matrix has a sensible mean and deviation."""
    limits = subject.settings["initialization"]
    broken, zero, odd = [], [], []
    named = dict(subject.model.named_parameters())
    scales = {id(module.weight) for module in subject.model.modules() if isinstance(module, ShortConv)}  # as of norms
    for name, parameter in named.items():
        values = parameter.detach().double()
        matrix = parameter.dim() >= 2 and id(parameter) not in scales
        if not bool(values.isfinite().all()):
            broken.append(name)
        elif matrix and not bool(values.any()):  # norms and biases may be all one or all zero
            zero.append(name)
        elif matrix:
            mean, deviation = float(values.mean()), float(values.std(correction=0))
            if abs(mean) > limits["max_abs_mean"] or not limits["min_std"] <= deviation <= limits["max_std"]:
                odd.append(f"{name} (mean {mean:.2g}, deviation {deviation:.2g})")
    limit = (
        f"finite; of a matrix: not all zeros, mean within {limits['max_abs_mean']:g}, "
        f"deviation from {limits['min_std']:g} to {limits['max_std']:g}"
    )
    details = {"tensors": len(named), "not_finite": broken, "all_zero": zero, "odd": odd}
    if broken or zero:
        kinds = (("NaN or Infinity in", broken), ("all zeros:", zero))
        return Outcome("failed", "; ".join(f"{kind} {_some(names)}" for kind, names in kinds if names), limit, details)
    if odd:
        return Outcome("warning", _some(odd), limit, details)
    return Outcome("passed", f"{len(named)} tensors", limit, details)


def memory_footprint(subject: Subject) -> Outcome:
    """Memory of a forward pass grows no faster than the batch: rows have nothing to do with each other."""
    settings = subject.settings["memory"]
    sizes, length = sorted(settings["batch_sizes"]), subject.length(settings["seq_len"])
    peaks = {size: _peak(subject.model, subject.inputs(size, length)) for size in sizes}
    weights = sum(parameter.nbytes for parameter in subject.model.parameters())
    first, last = sizes[0], sizes[-1]
    growth, batch_growth = peaks[last] / peaks[first], last / first
    details = {
        "weights_mb": round(weights / _MB, 3),
        "peak_mb": {str(size): round(peak / _MB, 3) for size, peak in peaks.items()},
        "growth": round(growth, 3),
    }
    measured = (
        f"weights {weights / _MB:,.1f} MB; a pass {peaks[first] / _MB:,.2f} MB at batch {first}, "
        f"{peaks[last] / _MB:,.2f} MB at {last}"
    )
    limit = f"at most {_GROWTH * batch_growth:.3g} times as much at batch {last} as at {first}"
    return Outcome("passed" if growth <= _GROWTH * batch_growth else "failed", measured, limit, details)


def _peak(model: torch.nn.Module, inputs: Tensor) -> int:
    """The most memory that a forward pass holds at once beside weights and inputs, in bytes."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else some builds of the profiler write to standard error
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        logits(model, inputs)
    held = most = 0
    for event in sorted(profile.events(), key=lambda event: event.time_range.end):
        held += event.self_cpu_memory_usage
        most = max(most, held)
    return most


def inference_speed(subject: Subject) -> Outcome:
    """Time of a forward pass: measured, not judged, because no limit holds for every machine."""
    settings = subject.settings["speed"]
    length = subject.length(settings["seq_len"])
    inputs = subject.inputs(settings["batch_size"], length)
    for _ in range(settings["warmup_runs"]):
        logits(subject.model, inputs)
    times = sorted(_milliseconds(subject.model, inputs) for _ in range(settings["timed_runs"]))
    figures = {
        "mean_ms": statistics.fmean(times),
        "std_ms": statistics.pstdev(times),
        "median_ms": statistics.median(times),
        "p95_ms": _quantile(times, 0.95),
        "p99_ms": _quantile(times, 0.99),
        "per_second": 1000 * settings["batch_size"] / statistics.fmean(times),
    }
    details: Mapping[str, float] = {name: round(value, 4) for name, value in figures.items()}
    measured = (
        f"{settings['batch_size']} x {length}: median {details['median_ms']:.2f} ms, p95 {details['p95_ms']:.2f} ms, "
        f"{details['per_second']:,.0f} inputs a second on {torch.get_num_threads()} threads"
    )
    return Outcome("not_judged", measured, "", {**details, "threads": torch.get_num_threads()})


def _milliseconds(model: torch.nn.Module, inputs: Tensor) -> float:
    started = time.perf_counter()
    logits(model, inputs)
    return 1000 * (time.perf_counter() - started)


def _quantile(ordered: list[float], share: float) -> float:
    """The value that `share` of the ordered values do not exceed: one that was measured."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _outcome(wrong: list[str], measured: str, limit: str, details: dict[str, object]) -> Outcome:
    return Outcome("failed" if wrong else "passed", measured, limit, details)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
