"""The health checks of an export: one function and one row each."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch

from pipeline.errors import ExportError
from pipeline.export.compare import (
    Latency,
    Runner,
    compare_greedy,
    compare_latency,
    differences,
    random_inputs,
    shape_name,
    shapes_of,
    worst,
)
from pipeline.export.formats import FORMATS
from pipeline.export.source import REBUILD
from pipeline.files import manifest_hash, read_artefact, verify_manifest
from pipeline.models.cnn import Cnn
from pipeline.models.transformer import Transformer

if TYPE_CHECKING:
    from pipeline.models.model import Model

Status = Literal["passed", "warning", "failed"]

_MB = 1_000_000  # bytes
_MEMORY_WARNING_MB = 1000
_PROMPT_TOKENS = 4


@dataclass(frozen=True)
class Outcome:
    """What a check found. `advice` says what to do about it when it did not pass."""

    status: Status
    message: str
    details: dict[str, Any] = field(default_factory=dict)
    advice: str = ""


class Subject:
    """What the checks look at: an export folder and the model it was made from. Use it in a `with` block.

    Args:
        model: the source, in evaluation mode.
        description: its model.json.
        model_folder: where both came from.
        folder: the export.
        formats: the formats that the export should hold.
        max_abs_diff: largest allowed difference of a logit.
        generated_tokens: how many greedy tokens to compare.
    """

    def __init__(
        self,
        *,
        model: Model,
        description: Mapping[str, Any],
        model_folder: Path,
        folder: Path,
        formats: list[str],
        max_abs_diff: float,
        generated_tokens: int,
    ) -> None:
        self.model, self.description, self.model_folder = model, description, model_folder
        self.folder, self.formats = folder, formats
        self.max_abs_diff, self.generated_tokens = max_abs_diff, generated_tokens
        self.threads = torch.get_num_threads()
        self._stack = ExitStack()
        self._runners: dict[Path, Runner | ExportError] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def path(self, name: str) -> Path:
        """What a format wrote."""
        return self.folder / FORMATS[name].file

    def runner(self, name: str) -> Runner:
        """A format, open in a fresh process that its checks share.

        Raises:
            ExportError: it does not open; every check that asks is told so.
        """
        return self._open(name, self.path(name))

    def source_runner(self) -> Runner:
        """The source model, open in a fresh process, so that latencies are compared on equal terms."""
        return self._open("pytorch", self.model_folder)

    def _open(self, name: str, path: Path) -> Runner:
        if path not in self._runners:
            try:
                self._runners[path] = self._stack.enter_context(Runner(name, path, threads=self.threads))
            except ExportError as error:
                self._runners[path] = error
        found = self._runners[path]
        if isinstance(found, ExportError):
            raise ExportError(found.message, where=found.where, hint=found.hint)
        return found


@dataclass(frozen=True)
class Check:
    """A row of the table: a name for the report and the function that does it."""

    name: str
    run: Callable[[Subject], Outcome]


# Of the export as a whole, and of the model it was made from


def integrity(subject: Subject) -> Outcome:
    """Every file is the one that was written, and the export is of this model."""
    manifest = verify_manifest(subject.folder, rebuild=REBUILD)
    if manifest["inputs"].get("model") != manifest_hash(subject.model_folder):
        message = f"the export was made from another model than {subject.model_folder}"
        raise ExportError(message, where=str(subject.folder), hint=f"build it again with: {REBUILD}")
    return Outcome("passed", f"{len(manifest['files'])} files are as written", {"files": len(manifest["files"])})


def architecture(subject: Subject) -> Outcome:
    """The model fits its tokenizer, where every id has a row in the embedding, or its pictures and their classes."""
    model = subject.model
    tokenizer = read_artefact(subject.folder / "tokenizer.json", "tokenizer", rebuild=REBUILD)
    if isinstance(model, Cnn):
        return _architecture_for_pictures(subject, model, tokenizer)
    if tokenizer["vocab_size"] > model.vocab_size:
        message = f"the tokenizer has {tokenizer['vocab_size']} pieces, the model {model.vocab_size} rows"
        raise ExportError(message, where=str(subject.folder / "tokenizer.json"), hint=f"build again: {REBUILD}")
    details = {
        "arguments": dict(subject.description["model"]),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokenizer_pieces": tokenizer["vocab_size"],
    }
    return Outcome("passed", f"{model.model_type}, {details['parameters']:,} parameters", details)


def _architecture_for_pictures(subject: Subject, model: Cnn, pictures: Mapping[str, Any]) -> Outcome:
    theirs, ours = (pictures["image_size"], len(pictures["classes"])), (list(model.image_size), model.num_classes)
    if theirs != ours:
        message = f"the pictures have size and classes {theirs}, the model {ours}"
        raise ExportError(message, where=str(subject.folder / "tokenizer.json"), hint=f"build again: {REBUILD}")
    count = sum(parameter.numel() for parameter in model.parameters())
    details = {"arguments": dict(subject.description["model"]), "parameters": count, "classes": model.num_classes}
    return Outcome("passed", f"{model.model_type}, {count:,} parameters", details)


def parameters(subject: Subject) -> Outcome:
    """Every weight is a finite number, and no matrix is all zeros."""
    state = dict(subject.model.named_parameters())
    broken = sorted(name for name, value in state.items() if not bool(torch.isfinite(value).all()))
    dead = sorted(name for name, value in state.items() if value.dim() == 2 and not bool(value.any()))
    details = {"tensors": len(state), "not_finite": broken, "all_zero": dead}
    if broken:
        return Outcome("failed", f"NaN or Infinity in {', '.join(broken)}", details, "train again with a lower rate")
    if dead:
        return Outcome("warning", f"all zeros: {', '.join(dead)}", details, "train longer, or look at init_std")
    return Outcome("passed", f"{len(state)} tensors, all finite", details)


def shapes(subject: Subject) -> Outcome:
    """Inputs give logits of the right shape on every shape that the exports are compared on."""
    model = subject.model
    tried = shapes_of(model)
    pictures = isinstance(model, Cnn)
    for batch, length in tried:
        with torch.inference_mode():
            found = tuple(model(torch.from_numpy(random_inputs(model, batch, length))).shape)
        if found != model.logits_shape(batch, length):
            return Outcome("failed", f"{shape_name(batch, None if pictures else length)} gives {found}")
    shown = [_short(batch, None if pictures else length) for batch, length in tried]
    return Outcome("passed", f"{len(tried)} shapes", {"shapes": shown})


def _short(batch: int, length: int | None) -> str:
    """A shape as a key of a report: `2x13`, of pictures `2`."""
    return f"{batch}" if length is None else f"{batch}x{length}"


def memory(subject: Subject) -> Outcome:
    """An estimate of what a forward pass needs: the weights, and as much again."""
    estimate = 2 * sum(parameter.nbytes for parameter in subject.model.parameters()) / _MB
    details = {"estimated_mb": round(estimate, 1), "warning_above_mb": _MEMORY_WARNING_MB}
    if estimate > _MEMORY_WARNING_MB:
        return Outcome("warning", f"about {estimate:,.0f} MB", details, "make the model smaller for small machines")
    return Outcome("passed", f"about {estimate:,.1f} MB", details)


def forward_pass(subject: Subject) -> Outcome:
    """Logits are finite and the same twice; where each token has its own, none sees the tokens after it."""
    model = subject.model
    for batch in (1, 4):
        _, longest = shapes_of(model)[-1]
        ids = torch.from_numpy(random_inputs(model, batch, longest))
        with torch.inference_mode():
            logits, again = model(ids), model(ids)
        if not bool(torch.isfinite(logits).all()):
            return Outcome("failed", f"NaN or Infinity in the logits at batch {batch}")
        if not torch.equal(logits, again):
            return Outcome("failed", f"two passes differ at batch {batch}")
        if isinstance(model, Transformer) and not _is_causal(model, ids):
            return Outcome("failed", f"a token sees the one after it at batch {batch}")
    found = "finite, repeatable and causal" if isinstance(model, Transformer) else "finite and repeatable"
    return Outcome("passed", f"{found} at batch 1 and 4")


def _is_causal(model: Transformer, ids: torch.Tensor) -> bool:
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % model.vocab_size
    with torch.inference_mode():
        return torch.equal(model(ids)[:, :-1], model(changed)[:, :-1])


# Of each format


def validation(subject: Subject, name: str) -> Outcome:
    """The file is there and is what its format says."""
    path = subject.path(name)
    if not path.exists():
        return Outcome("warning", f"{path.name} is missing", {}, f"build it again with: {REBUILD}")
    megabytes = FORMATS[name].size(subject.folder) / _MB
    details = {"file": path.name, "size_mb": round(megabytes, 3), **FORMATS[name].inspect(path)}
    return Outcome("passed", f"{path.name}, {megabytes:,.2f} MB", details)


def numerical_consistency(subject: Subject, name: str) -> Outcome:
    """The logits are those of the model, on every batch and length."""
    limit = subject.max_abs_diff
    found = differences(subject.model, subject.runner(name))
    largest = worst(found)
    details = {
        "max_abs_diff": _finite(largest.max_abs),
        "max_rel_diff": _finite(max(one.max_rel for one in found)),
        "limit": limit,
        "max_abs_diff_by_shape": {_short(one.batch, one.length): _finite(one.max_abs) for one in found},
    }
    message = f"{name}: the largest difference of a logit is {largest} (limit {limit:g})"
    if FORMATS[name].rounded and math.isfinite(largest.max_abs):
        message = f"{name}: the largest difference of a logit is {largest}, as its weights are rounded"
        return Outcome("passed", message, {**details, "limit": None})
    if largest.max_abs == 0:
        message = f"{name}: every logit is equal on all {len(found)} shapes"
    if largest.within(limit):
        return Outcome("passed", message, details)
    return Outcome("failed", message, details, f"build it again with: {REBUILD}; or raise export.max_abs_diff")


def generation(subject: Subject, name: str) -> Outcome:
    """Greedy tokens are those of the model. Where two tokens tie within the allowed difference, either may win."""
    model, limit = subject.model, subject.max_abs_diff
    assert isinstance(model, Transformer)
    ids = random_inputs(model, 1, min(_PROMPT_TOKENS, model.max_seq_len - 1))[0].tolist()
    found = compare_greedy(
        model, subject.runner(name), [subject.description["bos_id"], *ids[1:]], subject.generated_tokens
    )
    tokens = len(found.ours)
    details: dict[str, Any] = {"tokens": tokens, "equal": found.equal}
    if found.equal == tokens:
        return Outcome("passed", f"{tokens} greedy tokens are equal", details)
        details["gap"] = found.gap
    message = (
        f"{name}: greedy token {found.equal + 1} of {tokens} differs; the model prefers its own by {found.gap:.3g}"
    )
    if FORMATS[name].rounded:
        return Outcome("warning", f"{message}, as its weights are rounded", details)
    if found.gap <= 2 * limit:  # each of the two logits may be off by the limit
        return Outcome("warning", f"{message}, a tie within the limit of {limit:g}", details)
    return Outcome("failed", message, details, f"build it again with: {REBUILD}")


def performance(subject: Subject, name: str) -> Outcome:
    """Latency of one sequence against the model in PyTorch: measured, not judged."""
    model = subject.model
    source, runner = subject.source_runner(), subject.runner(name)
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


# The tables

MODEL_CHECKS = (
    Check("export_integrity", integrity),
    Check("architecture_validation", architecture),
    Check("parameter_validation", parameters),
    Check("shape_validation", shapes),
    Check("memory_requirements", memory),
    Check("forward_pass_validation", forward_pass),
)
FORMAT_CHECKS: Mapping[str, Callable[[Subject, str], Outcome]] = {
    "validation": validation,
    "numerical_consistency": numerical_consistency,
    "generation_consistency": generation,
    "performance": performance,
}


def checks_for(formats: list[str], *, writes_text: bool = True) -> list[Check]:
    """The checks of an export that holds these formats, in the order of the report."""
    kinds = [kind for kind in FORMAT_CHECKS if kind != "generation_consistency" or writes_text]
    return [*MODEL_CHECKS, *(_of_format(name, kind) for name in formats for kind in kinds)]


def _of_format(name: str, kind: str) -> Check:
    return Check(f"{name}_{kind}", lambda subject: FORMAT_CHECKS[kind](subject, name))
