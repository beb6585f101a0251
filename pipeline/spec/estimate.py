"""What a spec will cost, by arithmetic alone: steps, disk, time at a measured pace, budgets, and all of it as a plan.

Every figure follows from the settings, the size of the text and, for times, the pace of a machine. docs/planning.md
says how each is computed and how far it can be off. MB are 1,000,000 bytes.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations, pairwise
from typing import Any, Literal

from pipeline import __version__
from pipeline.files import canonical_json, sha256_bytes
from pipeline.spec.devices import asked_devices
from pipeline.spec.estimate_memory import (
    LARGEST_MEASURED_MB,
    MEASURED_PRECISIONS,
    inference_memory,
    number_bytes,
    training_memory,
)
from pipeline.spec.estimate_model import (
    MUON_ITERATIONS,
    Settings,
    Shape,
    count,
    flops_per_token,
    moments_per_weight,
    orthogonalization_flops,
    parameters,
    shape_of,
    weight_bytes,
)
from pipeline.spec.saves import schedule_of

PLAN_FORMAT = 1
# How far a figure can be off, as a share; tests/commands/test_plan_command.py holds them to real runs.
MEMORY_BOUND, TIME_BOUND = 0.10, 0.30
EAGER_MEMORY_BOUND = 0.15  # of what is not compiled: four runs of one spec took 891 to 1,029 MB

Known = Literal["counted", "estimated", "unknown"]

_FLOAT = 4  # bytes of a weight
_MB = 1e6
_CHOOSES = "text_classification"
_BY_DOCUMENT = (_CHOOSES, "seq2seq")  # tasks of which each row is a document of its own


# The text


@dataclass(frozen=True, slots=True)
class Text:
    """How much text there is.

    Attributes:
        known: `counted` tokens, tokens `estimated` from the size of the text, or `unknown`.
        source: where the figures come from, in words.
        vocab_size: pieces of the tokenizer.
        train_tokens: tokens of the training split.
        validation_tokens: tokens of the validation split.
        all_tokens: tokens of all splits.
        all_bytes: of the text of all splits.
        num_classes: classes of the texts; None where there are none or they are not known.
        train_documents: documents of the training split; None: not known.
    """

    known: Known
    source: str
    vocab_size: int
    train_tokens: int
    validation_tokens: int
    all_tokens: int
    all_bytes: int
    num_classes: int | None = None
    train_documents: int | None = None


# Bytes of English text that one token stands for, by pieces of the vocabulary. Measured on the plays of Shakespeare
# with byte fallback; other text can differ much.
_BYTES_PER_TOKEN = {
    "unigram": ((260, 1.0), (512, 1.73), (1024, 2.26), (2048, 2.75), (4096, 3.14), (8192, 3.39), (16384, 3.57)),
    "bpe": ((260, 1.0), (1024, 2.30), (4096, 3.06), (16384, 3.57)),
    "word": ((260, 1.0), (4096, 2.09), (16384, 2.89)),
    "char": ((260, 1.0),),
}


def bytes_per_token(tokenizer_type: str, vocab_size: int) -> float:
    """About how many bytes of text one token stands for: between the measured sizes it grows with the logarithm."""
    measured = _BYTES_PER_TOKEN[tokenizer_type]
    if vocab_size <= measured[0][0]:
        return measured[0][1]
    for (few, low), (many, high) in pairwise(measured):
        if vocab_size <= many:
            return low + (high - low) * math.log(vocab_size / few) / math.log(many / few)
    return measured[-1][1]


def text_of_bytes(
    sizes: Mapping[str, int], *, tokenizer_type: str, vocab_size: int, source: str, known: Known = "estimated"
) -> Text:
    """What is known of a text when only the bytes of its splits are.

    Args:
        sizes: bytes of `train`, `validation` and `test`.
        tokenizer_type: as in the spec.
        vocab_size: pieces asked for.
        source: where the sizes come from, in words.
        known: `unknown` when they are made up.
    """
    ratio = bytes_per_token(tokenizer_type, vocab_size)
    tokens = {split: round(size / ratio) for split, size in sizes.items()}
    total = sum(sizes.values())
    return Text(known, source, vocab_size, tokens["train"], tokens["validation"], sum(tokens.values()), total)


def shape_for(settings: Settings, text: Text) -> Shape:
    """The shape of an experiment's model, once it is known what it learns from."""
    chooses = settings["task"]["task_type"] == _CHOOSES
    return shape_of(settings["model"], text.vocab_size, (text.num_classes or 0) if chooses else None)


# The steps


@dataclass(frozen=True, slots=True)
class Steps:
    """How a run is cut into steps."""

    batches_per_epoch: int
    per_epoch: int
    total: int
    evaluations: int
    checkpoints: int
    scheduled: int  # of the checkpoints: those that a schedule names, step 0 perhaps among them


def steps_of(settings: Settings, text: Text) -> Steps:
    """How many batches, optimizer steps, evaluations and checkpoints a run takes.

    Early stopping is not foreseen, and every evaluation is taken for one that saves a better model.
    """
    rows = max(1, text.train_tokens - 1) // settings["model"]["max_seq_len"] + 1  # windows
    if settings["task"]["task_type"] in _BY_DOCUMENT:
        rows = text.train_documents or rows
    return steps_of_rows(settings, rows, held_out=text.validation_tokens > 1)


def steps_of_rows(settings: Settings, rows: int, *, held_out: bool) -> Steps:
    """The same for rows of any kind, windows or pictures; `held_out`: there are some to evaluate on."""
    training, saving = settings["training"], settings["checkpointing"]
    batches = -(-rows // rows_of_a_batch(settings))
    per_epoch = -(-batches // training["gradient_accumulation_steps"])
    total: int = training["epochs"] * per_epoch
    if training["max_steps"] is not None:
        total = min(total, training["max_steps"])
    every = training["eval_every_n_steps"] or per_epoch
    evaluated = [every] if held_out else []
    saved = list(evaluated)
    if saving["save_every_n_steps"] is not None:
        saved.append(saving["save_every_n_steps"])
    if saving["save_every_n_epochs"] is not None:
        saved.append(saving["save_every_n_epochs"] * per_epoch)
    scheduled = schedule_of(saving, total=total, per_epoch=per_epoch)
    ends = bool(evaluated or scheduled)
    extra = sum(not _met(step, saved, total=total if ends else 0) for step in scheduled)
    checkpoints = _moments(total, saved, last=ends) + extra + (ends and not saved)
    return Steps(batches, per_epoch, total, _moments(total, evaluated), checkpoints, len(scheduled))


def _met(step: int, periods: Sequence[int], *, total: int) -> bool:
    return step > 0 and (step == total or any(step % period == 0 for period in periods))


def checkpoints_on_disk(settings: Settings, steps: Steps) -> int:
    """The most checkpoints that a run has at a time, without the one that is being written."""
    saving = settings["checkpointing"]
    kept: int = saving["keep_last_n"] + saving["keep_best_k"] + steps.scheduled
    return min(kept, max(1, steps.checkpoints))


def checkpoint_bytes(settings: Settings, shape: Shape) -> float:
    """Bytes of a checkpoint: weights and moments; the best weights are a link."""
    narrower = number_bytes(settings["hardware"]["precision"]) / _FLOAT
    return (1 + moments_per_weight(shape, settings)) * weight_bytes(shape) * narrower


def rows_of_a_batch(settings: Settings) -> int:
    """Sequences of a batch: `batch_size` of them for each device that the spec asks for."""
    return int(settings["training"]["batch_size"]) * (asked_devices(settings["hardware"]) or 1)


def _moments(total: int, periods: Sequence[int], *, last: bool = True) -> int:
    """How many of the steps 1 to `total` are a multiple of a period; with `last`, the last step counts too."""
    met = 0
    for size in range(1, len(periods) + 1):
        sign = 1 if size % 2 else -1
        met += sign * sum(total // math.lcm(*chosen) for chosen in combinations(periods, size))
    added = last and bool(periods) and all(total % period for period in periods)
    return met + added


# Disk

# Format → its size beside that of the weights in float32; int8 holds scales and tables beside its weights.
_SHARE_OF_FLOAT32 = {"int8": 0.29, "fp16": 0.5, "bf16": 0.5}


def exported_copies(formats: Sequence[str]) -> float:
    """How many times the weights in float32 these formats hold together."""
    return sum(_SHARE_OF_FLOAT32.get(name, 1.0) for name in formats)


def disk(settings: Settings, shape: Shape, text: Text) -> dict[str, float | None]:
    """What a run leaves on the disk, and what it needs on the way, in MB.

    Returns:
        `corpus` and `tokenizer` (None where the text is unknown), `model`, `exports`, `checkpoints` while training,
        `cache` for the copies that DVC keeps of the outputs, and `total`.
    """
    weights = weight_bytes(shape) / _MB
    known = text.known != "unknown"
    outputs = {
        "corpus": 1.04 * text.all_bytes / _MB if known else None,  # as JSON Lines, with names and escapes
        "tokenizer": (2 if shape.vocab_size <= 1 << 16 else 4) * text.all_tokens / _MB if known else None,
        "model": weights * (1 if settings["checkpointing"]["keep_best_only"] else 2),
        "exports": weights * exported_copies(settings["export"]["formats"]) * (1 + settings["export"]["export_bundle"]),
    }
    checkpoint = checkpoint_bytes(settings, shape) / _MB
    kept = checkpoints_on_disk(settings, steps_of(settings, text))
    parts = {
        **outputs,
        "checkpoints": (kept + 1) * checkpoint + weights,  # one more while it is written, and older best weights
        "cache": sum(size for size in outputs.values() if size is not None),
    }
    return parts | {"total": sum(size for size in parts.values() if size is not None)}


# Time


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a machine works at a model, measured by `foundry plan`.

    Attributes:
        device: `cpu` or `cuda`.
        precision: that training takes here.
        num_threads: of arithmetic.
        compiler: whether there is a C++ compiler.
        learned_flops_per_second: of forward and backward passes, not compiled.
        updated_per_second: weights that are clipped and updated.
        scored_flops_per_second: of forward passes in an evaluation.
        written_per_second: bytes of a checkpoint that are written, synced and hashed.
        layer_seconds: 95th percentile of one next token, or of one text for an encoder, for each layer.
        served_layer_seconds: the same as the model is served; of what writes no text, `layer_seconds`.
        measured: what was timed, in words.
    """

    device: str
    precision: str
    num_threads: int
    compiler: bool
    learned_flops_per_second: float
    updated_per_second: float
    scored_flops_per_second: float
    written_per_second: float
    layer_seconds: float
    served_layer_seconds: float
    measured: str


FLOPS_WORTH_COMPILING = 2e13  # of a whole run; a test holds it to the figure that the train stage decides by
COMPILED_GAIN = 1.15  # tokens a second of real runs, compiled against not: 1.12 at 0.9, 1.19 at 2.5 million parameters
_COMPILING, _COMPILING_LAYER = 15.0, 4.5  # seconds; measured on two cores: 24 for two layers, 33 for four


@dataclass(frozen=True, slots=True)
class Execution:
    """What a run is expected to execute on, and whether that was measured."""

    device: str
    precision: str
    compiled: bool


_SHORT = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def execution_of(settings: Settings, *, flops: float, pace: Pace | None) -> Execution:
    """What a run executes on: as the spec says, `auto` as it was measured, or as most machines choose.

    Without a pace, `auto` is taken for the CPU, float32, and compiled when the run is long enough for it.
    """
    hardware = settings["hardware"]
    device = pace.device if pace else "cpu" if hardware["device"] == "auto" else hardware["device"]
    precision = _SHORT.get(hardware["precision"], hardware["precision"])
    if hardware["use_amp"] is False and not precision.endswith("-true"):
        precision = "32-true"
    if precision == "auto":
        precision = pace.precision if pace else "32-true"
    mode = hardware["compile_mode"]
    compiled = mode is not None
    if mode == "auto":
        compiled = flops >= FLOPS_WORTH_COMPILING and (pace is None or pace.compiler)
    return Execution(device, precision, compiled)


def times(settings: Settings, shape: Shape, text: Text, pace: Pace) -> dict[str, float]:
    """How long the train stage takes at a pace, in seconds.

    Returns:
        `steps`, `compiling`, `evaluations`, `checkpoints`, `samples`, and their sum `total`.
    """
    steps, logging = steps_of(settings, text), settings["logging"]
    learned = flops_per_token(shape) * tokens_learned(settings, steps)
    execution = execution_of(settings, flops=learned, pace=pace)
    passes = learned / pace.learned_flops_per_second / (COMPILED_GAIN if execution.compiled else 1.0)
    epochs = -(-steps.total // steps.per_epoch)
    # An encoder fills in all that a prompt hides in one pass.
    sampled = epochs * len(logging["sample_prompts"]) * (1 if shape.is_encoder else logging["sample_max_new_tokens"])
    parts = {
        "steps": passes + steps.total * _update_seconds(settings, shape, execution, pace),
        "compiling": _COMPILING + _COMPILING_LAYER * shape.num_layers if execution.compiled else 0.0,
        "evaluations": steps.evaluations
        * text.validation_tokens
        * flops_per_token(shape)
        / 3  # the forward pass is a third of what training does
        / pace.scored_flops_per_second,
        "checkpoints": steps.checkpoints
        * (1 + moments_per_weight(shape, settings))
        * weight_bytes(shape)
        * number_bytes(execution.precision)
        / _FLOAT
        / pace.written_per_second,
        "samples": sampled * shape.num_layers * pace.layer_seconds,
    }
    return parts | {"total": sum(parts.values())}


def _update_seconds(settings: Settings, shape: Shape, execution: Execution, pace: Pace) -> float:
    seconds = count(shape) / pace.updated_per_second
    if settings["optimizer"]["optimizer_name"] == "muon":
        iterations = MUON_ITERATIONS[settings["optimizer"]["muon_method"]]
        in_float32 = not execution.precision.startswith("bf16")
        operations = orthogonalization_flops(shape, iterations=iterations, in_float32=in_float32)
        seconds += operations / pace.learned_flops_per_second
    return seconds


def tokens_learned(settings: Settings, steps: Steps) -> int:
    """Positions that a whole run computes, those that fill up a window or a batch included."""
    training = settings["training"]
    whole, rest = divmod(steps.total, steps.per_epoch)
    batches = whole * steps.batches_per_epoch + rest * training["gradient_accumulation_steps"]
    return int(batches * rows_of_a_batch(settings) * settings["model"]["max_seq_len"])


# Budgets


def predicted(settings: Settings, text: Text, pace: Pace | None) -> dict[str, float | None]:
    """What each budget of a spec will be held against; None for what cannot be known before."""
    shape = shape_for(settings, text)
    memory = inference_memory(shape)
    known = pace is not None and text.known != "unknown"
    return {
        "val_loss": None,
        "rss_mb": memory["rss"],
        "peak_mb": memory["peak"],
        "latency_p95_ms": None if pace is None else 1000 * pace.served_layer_seconds * shape.num_layers,
        "model_mb": weight_bytes(shape) / _MB,
        "training_minutes": times(settings, shape, text, pace)["total"] / 60 if known and pace else None,
    }


_BOUND_OF = {
    "rss_mb": MEMORY_BOUND,
    "peak_mb": MEMORY_BOUND,
    "latency_p95_ms": TIME_BOUND,
    "training_minutes": TIME_BOUND,
}
# Which settings make it smaller, tried one at a time.
_LEVERS = {
    "val_loss": (),
    "rss_mb": ("model.d_model", "model.num_layers", "tokenizer.vocab_size"),
    "peak_mb": ("model.d_model", "model.num_layers", "tokenizer.vocab_size"),
    "latency_p95_ms": ("model.num_layers",),
    "model_mb": ("model.d_model", "model.num_layers", "tokenizer.vocab_size"),
    "training_minutes": ("training.epochs", "training.max_steps", "model.d_model", "model.num_layers"),
}
_HEAD_STEP = 8  # features of a head come in eights, as vector instructions like them
_VOCABULARY_STEP = 256


def _smaller(name: str, settings: Settings, text: Text) -> Sequence[int]:
    """The smaller values that a setting can take, from small to large."""
    model = settings["model"]
    width = _HEAD_STEP * model["num_heads"]
    ranges: dict[str, Callable[[], Sequence[int]]] = {
        "model.d_model": lambda: range(width, model["d_model"], width),
        "model.num_layers": lambda: range(1, model["num_layers"]),
        "model.max_seq_len": lambda: range(32, model["max_seq_len"], 32),
        "tokenizer.vocab_size": lambda: range(2 * _VOCABULARY_STEP, text.vocab_size, _VOCABULARY_STEP),
        "training.epochs": lambda: range(1, settings["training"]["epochs"]),
        "training.max_steps": lambda: range(1, steps_of(settings, text).total),
    }
    return ranges[name]()


def changed(settings: Settings, text: Text, name: str, value: int) -> tuple[Settings, Text]:
    """Settings and text with one setting changed."""
    section, key = name.split(".")
    other = {**settings, section: {**settings[section], key: value}}
    return other, replace(text, vocab_size=value) if name == "tokenizer.vocab_size" else text


def remedies(budget: str, limit: float, settings: Settings, text: Text, pace: Pace | None) -> dict[str, int]:
    """Dotted setting → the largest value with which a missed budget would be kept, each by itself."""
    found = {}
    for name in _LEVERS[budget]:
        choices = _smaller(name, settings, text)

        def cost(value: int, name: str = name) -> float:
            return predicted(*changed(settings, text, name, value), pace)[budget] or 0.0

        if fitting := bisect_right(choices, limit, key=cost):
            found[name] = choices[fitting - 1]
    return found


def judged(settings: Settings, text: Text, pace: Pace | None) -> list[dict[str, Any]]:
    """Each budget of a spec with what is predicted, and what would keep it where it is missed.

    The status is `keeps`, `close` (within the error of the prediction), `misses`, `unknown` or `no_limit`.
    """
    rows = []
    for name, value in predicted(settings, text, pace).items():
        limit = settings["validation"]["budgets"][name]
        status = _status(value, limit, _BOUND_OF.get(name, 0.0))
        missed = limit is not None and value is not None and value > limit
        change = remedies(name, limit, settings, text, pace) if missed else {}
        rows.append({"name": name, "predicted": _rounded(value), "limit": limit, "status": status, "change": change})
    return rows


def _status(value: float | None, limit: float | None, bound: float) -> str:
    if limit is None:
        return "no_limit"
    if value is None:
        return "unknown"
    if abs(value - limit) <= bound * value:
        return "close"
    return "misses" if value > limit else "keeps"


# The whole


_NOT_SHOWN = ("vocab_size", "num_classes", "train_documents")  # of the text: other parts of a plan follow from them


def plan(settings: Settings, text: Text, pace: Pace | None, *, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Everything that is known of a run before it starts; schemas/v1/artefact/plan.json describes it.

    Args:
        settings: the sections of a resolved experiment.
        text: how much there is to learn from.
        pace: of the machine that is to run it; None leaves times out.
        notes: what a reader should know beside the figures.
    """
    shape = shape_for(settings, text)
    steps = steps_of(settings, text)
    tokens = tokens_learned(settings, steps)
    flops = flops_per_token(shape) * tokens
    execution = execution_of(settings, flops=flops, pace=pace)
    recompute = settings["hardware"]["use_gradient_checkpointing"]
    memory = training_memory(
        shape,
        batch_size=settings["training"]["batch_size"],
        precision=execution.precision,
        compiled=execution.compiled,
        recompute=recompute,
        moments=moments_per_weight(shape, settings),
    )
    return {
        "format_version": PLAN_FORMAT,
        "toolkit_version": __version__,
        "experiment": settings["name"],
        "spec_hash": sha256_bytes(canonical_json(settings).encode()),
        "model": {
            "model_type": shape.model_type,
            "vocab_size": shape.vocab_size,
            "tie_embeddings": shape.tie_embeddings,
            "parameters": {**parameters(shape), "total": count(shape)},
            "flops_per_token": flops_per_token(shape),
        },
        "text": {key: value for key, value in asdict(text).items() if key not in _NOT_SHOWN},
        "training": {
            "tokens_per_epoch": max(0, text.train_tokens - 1),
            "steps_per_epoch": steps.per_epoch,
            "steps": steps.total,
            "evaluations": steps.evaluations,
            "checkpoints": steps.checkpoints,
            "flops": flops,
        },
        "execution": {**asdict(execution), "measured": pace is not None},
        "memory_mb": rounded(memory if execution.device == "cpu" else _of_any_device(memory)),
        "inference_mb": rounded(inference_memory(shape)),
        "disk_mb": rounded(disk(settings, shape, text)),
        "seconds": None if pace is None else rounded(times(settings, shape, text, pace)),
        "pace": None if pace is None else asdict(pace),
        "budgets": judged(settings, text, pace),
        "bounds": {"memory": MEMORY_BOUND if execution.compiled else EAGER_MEMORY_BOUND, "time": TIME_BOUND},
        "notes": [
            *notes,
            *_of_several_devices(settings["hardware"]),
            *_of_unknown_documents(settings, text),
            *_beyond_what_was_measured(memory["peak_rss"], execution.precision, recompute=recompute),
        ],
    }


def _of_unknown_documents(settings: Settings, text: Text) -> Iterator[str]:
    task = settings["task"]["task_type"]
    if task in _BY_DOCUMENT and text.train_documents is None:
        yield "how many documents there are is known once the corpus is encoded: until then each is taken for full"
    if task == _CHOOSES and text.num_classes is None:
        each = settings["model"]["d_model"] + 1
        yield f"how many classes there are is known once the corpus is encoded: each adds {each:,} parameters"


def _of_several_devices(hardware: Mapping[str, Any]) -> Iterator[str]:
    devices = asked_devices(hardware) or 1
    if devices == 1:
        return
    yield f"memory is that of each of {devices} processes; times are those of one process that does the work of all"
    if hardware["strategy"] in ("fsdp", "fsdp_native"):
        yield (
            f"with fsdp a process holds a part in {devices} of the planned weights, gradients and optimizer; the first "
            "one also holds a whole copy of the weights"
        )


def _beyond_what_was_measured(peak_mb: float, precision: str, *, recompute: bool) -> Iterator[str]:
    if peak_mb > LARGEST_MEASURED_MB:
        yield f"runs above {LARGEST_MEASURED_MB:,.0f} MB were not measured: memory can be off by more"
    if precision not in MEASURED_PRECISIONS:
        yield f"memory with {precision} was not measured: it follows from the arithmetic alone"
    if recompute:
        yield "memory with use_gradient_checkpointing was not measured: it follows from the arithmetic alone"


def _of_any_device(memory: Mapping[str, float]) -> dict[str, float | None]:
    """What a GPU has to hold too; how much it takes beside that is not known."""
    return {name: size if name in ("weights", "gradients", "optimizer") else None for name, size in memory.items()}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def rounded(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Figures with four digits: no prediction has more."""
    return {name: _rounded(value) for name, value in values.items()}
