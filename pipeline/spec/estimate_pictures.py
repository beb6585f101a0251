"""What a spec for pictures will cost, by arithmetic alone: parameters, operations, steps, memory, disk.

Times are not planned: convolutions are not calibrated. MB are 1,000,000 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline import __version__
from pipeline.files import canonical_json, sha256_bytes
from pipeline.spec.estimate import Known, checkpoints_on_disk, exported_copies, rounded, steps_of_rows
from pipeline.spec.estimate_model import Settings

PLAN_FORMAT = 1
MEMORY_BOUND = 0.10  # how far the peak can be off, as a share; a test holds it to a real run
_FLOAT = 4  # bytes of a weight, a gradient, a moment or a feature
_MB = 1e6
_KERNEL = 9  # weights of a 3x3 convolution between two channels
_HEADER = 100  # bytes that a safetensors file spends on the name, shape and place of one tensor
# Fitted to the peaks of four real runs of the train stage of 369 to 510 MB (Linux, glibc, torch 2.13), each met within
# 5 %; the same run twice differed by 4 %.
_PROCESS_MB = 362.0  # a process that has loaded torch and is about to train
_WORKING = 0.6  # for each byte that is kept: gradients of features while they are passed on, and gaps
_NOTE = "times and budgets are not predicted for pictures"


@dataclass(frozen=True, slots=True)
class PictureShape:
    """What the size of a convolutional network follows from; the names are those of the spec and of its class."""

    image_size: tuple[int, int, int]
    num_classes: int
    stage_channels: tuple[int, ...]
    blocks_per_stage: int
    norm_groups: int
    dropout: float

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        """Channels before and after each convolution, and the places it is used at."""
        before, height, width = self.image_size
        for stage, channels in enumerate(self.stage_channels):
            if stage:
                height, width = -(-height // 2), -(-width // 2)
            for _ in range(self.blocks_per_stage):
                yield before, channels, height * width
                before = channels

    @property
    def tensors(self) -> int:
        """How many weight tensors the model has."""
        return 3 * len(self.stage_channels) * self.blocks_per_stage + 2


@dataclass(frozen=True, slots=True)
class Pictures:
    """How many pictures there are.

    Attributes:
        known: whether they were `counted`, `estimated`, or are `unknown`.
        source: where the figures come from, in words.
        image_size: channels, height and width.
        num_classes: classes to choose from.
        train: pictures of the training split.
        validation: pictures of the validation split.
        all: pictures of all splits.
    """

    known: Known
    source: str
    image_size: tuple[int, int, int]
    num_classes: int
    train: int
    validation: int
    all: int


_DIGITS = 1797  # pictures that scikit-learn carries


def digits(dataset: Mapping[str, Any]) -> Pictures:
    """How many of the digits each split will get, by the shares of the `dataset` section of a spec."""
    return pictures_of(
        _DIGITS, dataset, image_size=(1, 8, 8), num_classes=10, known="estimated", source="the digits of scikit-learn"
    )


def pictures_of(
    found: int,
    dataset: Mapping[str, Any],
    *,
    image_size: tuple[int, int, int],
    num_classes: int,
    known: Known,
    source: str,
) -> Pictures:
    """How `found` pictures will be divided, by the shares of the `dataset` section of a spec."""
    validation = round(found * dataset["validation_split"])
    train = found - validation - round(found * dataset["test_split"])
    most_train, most_validation = dataset["max_train_samples"], dataset["max_val_samples"]
    train, validation = min(train, most_train or train), min(validation, most_validation or validation)
    return Pictures(known, source, image_size, num_classes, train, validation, found)


def picture_shape_of(model: Mapping[str, Any], pictures: Pictures) -> PictureShape:
    """The shape that the `model` section of a spec describes, for pictures of a size."""
    return PictureShape(
        image_size=pictures.image_size,
        num_classes=pictures.num_classes,
        stage_channels=tuple(model["stage_channels"]),
        **{name: model[name] for name in ("blocks_per_stage", "norm_groups", "dropout")},
    )


def parameters(shape: PictureShape) -> dict[str, int]:
    """The exact number of weights of each part; their sum is the model's parameter count."""
    blocks = list(shape.blocks())
    return {
        "convolutions": sum(_KERNEL * before * after for before, after, _ in blocks),
        "norms": sum(2 * after for _, after, _ in blocks),
        "head": (blocks[-1][1] + 1) * shape.num_classes,
    }


def count(shape: PictureShape) -> int:
    """The number of weights of a model."""
    return sum(parameters(shape).values())


def flops_per_picture(shape: PictureShape) -> float:
    """Floating-point operations that training spends on one picture: 6 for each weight and place it is used at."""
    blocks = list(shape.blocks())
    convolutions = sum(_KERNEL * before * after * places for before, after, places in blocks)
    return 6.0 * (convolutions + blocks[-1][1] * shape.num_classes)


def activation_bytes(shape: PictureShape, *, batch_size: int) -> int:
    """Bytes that autograd keeps of one forward pass in float32, until its backward pass.

    Of a block: what the convolution took, what the norm took and its two statistics for each group, what GELU took.
    Between two stages: what was pooled, and where each largest pixel stood (8 bytes).
    """
    blocks = list(shape.blocks())
    kept = 0
    for index, (before, after, places) in enumerate(blocks):
        kept += _FLOAT * (places * (before + 2 * after) + 2 * shape.norm_groups)
        if index and index % shape.blocks_per_stage == 0:
            earlier = blocks[index - 1]
            kept += _FLOAT * earlier[1] * earlier[2] + 8 * before * places
    features = blocks[-1][1]
    kept += _FLOAT * features * (2 if shape.dropout else 1)  # what the head took, and the mask of dropout
    kept += _FLOAT * shape.num_classes + 8  # log-probabilities, and the label
    return batch_size * kept + _FLOAT


def weight_bytes(shape: PictureShape) -> int:
    """About how many bytes the weights take in a safetensors file."""
    return _FLOAT * count(shape) + _HEADER * shape.tensors


def training_memory(shape: PictureShape, *, batch_size: int) -> dict[str, float]:
    """Peak resident memory of the train stage on the CPU in float32, and what it consists of, in MB."""
    weights = _FLOAT * count(shape) / _MB
    kept = activation_bytes(shape, batch_size=batch_size) / _MB
    parts = {
        "process": _PROCESS_MB,
        "weights": weights,
        "gradients": weights,
        "optimizer": 2 * weights,
        "activations": kept,
        "working": _WORKING * kept,
    }
    return parts | {"peak_rss": sum(parts.values())}


def plan_pictures(settings: Settings, pictures: Pictures) -> dict[str, Any]:
    """Everything that is known of a run before it starts; schemas/v1/artefact/picture_plan.json describes it.

    Args:
        settings: the sections of a resolved experiment.
        pictures: how much there is to learn from.
    """
    shape = picture_shape_of(settings["model"], pictures)
    training, saving = settings["training"], settings["checkpointing"]
    steps = steps_of_rows(settings, pictures.train, held_out=pictures.validation > 0)
    learned = min(
        steps.total * training["batch_size"] * training["gradient_accumulation_steps"],
        training["epochs"] * pictures.train,
    )
    weights = weight_bytes(shape) / _MB
    disk = {
        "corpus": 2 * pictures.all * _bytes_of(shape) / _MB,  # the tokenizer stage carries a copy on
        "model": weights * (1 if saving["keep_best_only"] else 2),
        "exports": weights * exported_copies(settings["export"]["formats"]) * (1 + settings["export"]["export_bundle"]),
        "checkpoints": (checkpoints_on_disk(settings, steps) + 1) * 3 * weights + weights,
    }
    return {
        "format_version": PLAN_FORMAT,
        "toolkit_version": __version__,
        "experiment": settings["name"],
        "spec_hash": sha256_bytes(canonical_json(settings).encode()),
        "model": {
            "model_type": settings["model"]["model_type"],
            "parameters": {**parameters(shape), "total": count(shape)},
            "flops_per_picture": flops_per_picture(shape),
        },
        "pictures": {**asdict(pictures), "image_size": list(pictures.image_size)},
        "training": {
            "steps_per_epoch": steps.per_epoch,
            "steps": steps.total,
            "evaluations": steps.evaluations,
            "checkpoints": steps.checkpoints,
            "flops": flops_per_picture(shape) * learned,
        },
        "memory_mb": rounded(training_memory(shape, batch_size=training["batch_size"])),
        "disk_mb": rounded(disk | {"total": sum(disk.values())}),
        "bounds": {"memory": MEMORY_BOUND},
        "notes": [_NOTE],
    }


def _bytes_of(shape: PictureShape) -> int:
    channels, height, width = shape.image_size
    return channels * height * width + 8  # pixels, and the label
