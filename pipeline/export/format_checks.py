"""Checks of one exported format: that it is what it says, and that it is still the model. One function each."""

from __future__ import annotations

import math
import statistics
from typing import Any

from pipeline.export.compare import (
    Latency,
    compare_given,
    compare_greedy,
    compare_latency,
    differences,
    same_classes,
    short_name,
    worst,
)
from pipeline.export.formats import FORMATS
from pipeline.export.source import REBUILD
from pipeline.export.subject import SPLIT, Outcome, Subject
from pipeline.files import sha256_file
from pipeline.models.cnn import Cnn
from pipeline.models.transformer import Transformer

_MB = 1_000_000  # bytes
# Formats that PyTorch itself runs, with the operations of the model: their logits are those of the model.
_EXACT_FORMATS = frozenset({"torchscript", "torch_export", "pytorch"})
_EXACT = 1e-6  # largest difference of a logit of theirs
_FAILS_ABOVE = 1e-2  # of any format whose weights are not rounded
_BUILD_AGAIN = f"build it again with: {REBUILD}"
_TOO_COARSE = "take this format out of export.formats, or quantize less; or raise export."


def validation(subject: Subject, name: str) -> Outcome:
    """It is there, has the bytes that were written, is what its format says, and opens in a fresh process."""
    path = subject.path(name)
    if not path.exists():
        return Outcome("warning", f"{path.name} is missing", {}, _BUILD_AGAIN)
    changed = [file for file in _files(subject, name) if not _is_as_recorded(subject, file)]
    if changed:
        return Outcome("failed", f"not the bytes that were written: {', '.join(changed)}", {}, _BUILD_AGAIN)
    found = FORMATS[name].inspect(path)
    asked = subject.settings["opset"]
    if found.get("opset", asked) != asked:
        message = f"{path.name} is of opset {found['opset']}, the spec asks for {asked}"
        return Outcome("failed", message, {"opset": found["opset"]}, _BUILD_AGAIN)
    runner = subject.runner(name)
    megabytes = FORMATS[name].size(subject.folder) / _MB
    checksum = {"sha256": sha256_file(path)} if path.is_file() else {}
    details = {"file": path.name, "size_mb": round(megabytes, 3), **checksum, "needs_torch": runner.uses_torch, **found}
    return Outcome("passed", f"{path.name}, {megabytes:,.2f} MB", details)


def _files(subject: Subject, name: str) -> list[str]:
    """The files of a format, as the manifest names them, those on disk and those recorded."""
    file = FORMATS[name].file
    path = subject.folder / file
    present = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    recorded = [one for one in subject.manifest["files"] if one == file or one.startswith((f"{file}/", f"{file}."))]
    return sorted({*(one.relative_to(subject.folder).as_posix() for one in present), *recorded})


def _is_as_recorded(subject: Subject, file: str) -> bool:
    recorded, path = subject.manifest["files"].get(file), subject.folder / file
    return recorded is not None and path.is_file() and sha256_file(path) == recorded["sha256"]


def numerical_consistency(subject: Subject, name: str) -> Outcome:
    """The logits are those of the model, on every batch and length; of rounded weights, they are numbers at all."""
    limit = _limit(subject, name)
    found = differences(subject.model, subject.runner(name), one_document=subject.reads_one_document(name))
    largest = worst(found)
    details = {
        "max_abs_diff": _finite(largest.max_abs),
        "max_rel_diff": _finite(max(one.max_rel for one in found)),
        "limit": _finite(limit),
        "max_abs_diff_by_shape": {short_name(one.batch, one.length): _finite(one.max_abs) for one in found},
    }
    message = f"{name}: the largest difference of a logit is {largest} (limit {limit:g})"
    if largest.max_abs == 0:
        message = f"{name}: every logit is equal on all {len(found)} shapes"
    elif FORMATS[name].rounded and math.isfinite(largest.max_abs):
        message = f"{name}: rounded weights move a logit by up to {largest}; judged by what it writes"
    if largest.within(limit):
        return Outcome("passed", message, details)
    if largest.within(max(limit, _FAILS_ABOVE)):
        advice = f"compare generation and perplexity of {name}; or raise export.max_abs_diff"
        return Outcome("warning", message, details, advice)
    return Outcome("failed", message, details, _BUILD_AGAIN)


def _limit(subject: Subject, name: str) -> float:
    """The largest difference of a logit that passes; infinite where weights are rounded."""
    if FORMATS[name].rounded:
        return math.inf
    asked: float = subject.settings["max_abs_diff"]
    return min(asked, _EXACT) if name in _EXACT_FORMATS else asked


def generation(subject: Subject, name: str) -> Outcome:
    """Greedy tokens are those of the model. Where two tokens tie within the allowed difference, either may win."""
    if FORMATS[name].rounded:
        return _agreement(subject, name)
    model, limit = subject.model, subject.settings["max_abs_diff"]
    assert isinstance(model, Transformer)
    found = compare_greedy(model, subject.runner(name), *subject.continued)
    tokens = len(found.ours)
    details: dict[str, Any] = {"tokens": tokens, "equal": found.equal}
    if found.equal == tokens:
        return Outcome("passed", f"{tokens} greedy tokens are equal", details)
    details["gap"] = _finite(found.gap)
    message = (
        f"{name}: greedy token {found.equal + 1} of {tokens} differs; the model prefers its own by {found.gap:.3g}"
    )
    if found.gap <= 2 * limit:  # each of the two logits may be off by the limit
        advice = "nothing, if it stays one such token: raise export.max_abs_diff only if you know why"
        return Outcome("warning", f"{message}, a tie within the limit of {limit:g}", details, advice)
    return Outcome("failed", message, details, _BUILD_AGAIN)


def _agreement(subject: Subject, name: str) -> Outcome:
    """Of rounded weights: how often the likeliest token is the model's, each time after what the model wrote."""
    least = subject.settings["min_token_agreement"]
    equal = compare_given(subject.runner(name), *subject.continued)
    share = sum(equal) / len(equal)
    details = {"tokens": len(equal), "equal": sum(equal), "least": least}
    message = f"{name}: {sum(equal)} of {len(equal)} likeliest tokens are the model's (at least {least:.0%})"
    if share >= least:
        return Outcome("passed", message, details)
    return Outcome("failed", message, details, f"{_TOO_COARSE}min_token_agreement is too strict")


def perplexity(subject: Subject, name: str) -> Outcome:
    """On held-out text, it is as surprised as the model is."""
    most = subject.settings["max_perplexity_increase"]
    if subject.heldout is None:
        advice = "run the checks beside the encoded corpus: foundry health --data artifacts/tokenizer"
        return Outcome("warning", f"there is no {SPLIT} text to compare the rounded weights of {name} on", {}, advice)
    rows, nats = subject.heldout_nats(name)
    targets = rows[:, 1:].size
    ours, theirs = nats / targets, subject.runner(name).nats(rows) / targets
    change = math.expm1(min(theirs - ours, 700.0)) if math.isfinite(theirs) else math.nan
    before, after = (math.exp(min(mean, 700.0)) for mean in (ours, theirs))  # e^710 is beyond float64
    details = {
        "perplexity": _finite(after),
        "pytorch_perplexity": _finite(before),
        "change": _finite(change),
        "limit": most,
        "tokens": targets,
    }
    message = f"{name}: perplexity {before:.4g} becomes {after:.4g} ({change:+.2%}, at most {most:+.2%})"
    if change <= most:  # NaN does not
        return Outcome("passed", message, details)
    advice = f"{_TOO_COARSE}max_perplexity_increase" if FORMATS[name].rounded else _BUILD_AGAIN
    return Outcome("failed", message, details, advice)


def class_agreement(subject: Subject, name: str) -> Outcome:
    """On held-out inputs, it chooses the class or the labels that the model chooses."""
    model, least, heldout = subject.model, subject.settings["min_token_agreement"], subject.heldout
    if heldout is None:
        advice = "run the checks beside the encoded corpus: foundry health --data artifacts/tokenizer"
        message = f"there is no {SPLIT} split to compare the rounded weights of {name} on"
        return Outcome("warning", message, {}, advice)
    threshold = subject.description.get("label_threshold")
    same = same_classes(model, subject.runner(name), heldout, threshold=threshold)
    share, what = float(same.mean()), "class" if threshold is None else "labels"
    details = {"inputs": len(same), "equal": int(same.sum()), "least": least}
    message = f"{name}: {share:.1%} of {len(same)} held-out inputs get the model's {what} (at least {least:.0%})"
    if share >= least:
        return Outcome("passed", message, details)
    return Outcome("failed", message, details, f"{_TOO_COARSE}min_token_agreement is too strict")


def performance(subject: Subject, name: str) -> Outcome:
    """Latency of one input against the model in PyTorch: measured, not judged."""
    model = subject.model
    source, runner = subject.source_runner(), subject.runner(name)
    subject.settle()
    pictures = isinstance(model, Cnn)
    lengths = [1] if pictures else sorted({min(64, model.max_seq_len), model.max_seq_len})
    figures = [_figures(compare_latency(source, runner, model, length)) for length in lengths]
    longest = figures[-1]
    what = "one picture" if pictures else f"{longest['length']} tokens"
    message = (
        f"{what} in {longest['p50_ms']:.2f} ms, PyTorch {longest['pytorch_p50_ms']:.2f} ms: "
        f"{longest['speedup']:.2f} times as fast"
    )
    return Outcome("passed", message, {"threads": subject.threads, "lengths": figures})


def _figures(latency: Latency) -> dict[str, Any]:
    ours, theirs = (_percentiles(times) for times in (latency.ours, latency.theirs))
    return {
        "length": latency.length,
        "runs": len(latency.theirs),
        "p50_ms": theirs[0],
        "p95_ms": theirs[1],
        "pytorch_p50_ms": ours[0],
        "pytorch_p95_ms": ours[1],
        "speedup": round(ours[0] / theirs[0], 2),
    }


def _percentiles(seconds: list[float]) -> tuple[float, float]:
    """Median and 95th percentile, in milliseconds."""
    return round(1000 * statistics.median(seconds), 4), round(1000 * statistics.quantiles(seconds, n=20)[-1], 4)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
