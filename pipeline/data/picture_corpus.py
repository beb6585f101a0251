"""A corpus of pictures: split so that equal pictures stay together, measured, and the report that says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.picture_arrays import DESCRIPTION, FORMAT_VERSION, KIND, SEVERAL, write_split
from pipeline.data.pictures import Picture, PictureSource, count_by_class
from pipeline.data.splits import SPLITS, place_of, split_of
from pipeline.errors import CorpusError
from pipeline.files import write_artefact

_EXAMPLES = 5  # of duplicates and ignored files: enough to see of which kind they are
_FLATTEST = 1e-3  # deviation of a channel that is the same everywhere; dividing by 0 would give NaN

PictureSplits = dict[str, list[Picture]]


@dataclass(frozen=True)
class PictureCorpus:
    """A corpus of pictures that is ready to be learned from.

    Attributes:
        splits: train, validation and test, each a list of pictures in the order of the source.
        description: pictures.json.
        report: reports/corpus.json; schemas/v1/artefact/picture_report.json describes it.
        warnings: what a person should know before using it.
    """

    splits: PictureSplits
    description: dict[str, Any]
    report: dict[str, Any]
    warnings: list[str]


def build_picture_corpus(
    *,
    source: PictureSource,
    drop_duplicates: bool,
    dataset_name: str,
    validation_split: float,
    test_split: float,
    split_seed: int,
    max_train_samples: int | None,
    max_val_samples: int | None,
) -> PictureCorpus:
    """Split pictures, look for pictures that are there twice, and measure the channels of the training split.

    Args:
        source: pictures and where they are from.
        drop_duplicates: keep only the first of pictures with equal pixels.
        dataset_name: for the report.
        validation_split: share for validation, as a fraction.
        test_split: share for test, as a fraction.
        split_seed: seed of the hash that assigns pictures to splits.
        max_train_samples: most training pictures, a fair sample; None keeps all.
        max_val_samples: the same for validation.

    Raises:
        CorpusError: a picture is there twice and is not of the same, a split with a share gets none, or a class has
            none to learn from.
    """
    kept, duplicates = _without_duplicates(source, drop=drop_duplicates)
    settings: dict[str, Any] = {
        "validation_split": validation_split,
        "test_split": test_split,
        "split_seed": split_seed,
        "max_train_samples": max_train_samples,
        "max_val_samples": max_val_samples,
    }
    splits = split_pictures(kept, **settings)
    _check_classes(splits, source.classes)
    mean, std = channel_figures(splits["train"])
    kind = SEVERAL if source.several else KIND
    description = {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "dtype": "uint8",
        "image_size": list(source.size),
        "fit": source.fit,
        "classes": source.classes,
        "channel_mean": mean,
        "channel_std": std,
        "splits": {name: {"documents": len(splits[name])} for name in SPLITS},
    }
    report = {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "dataset_name": dataset_name,
        "inputs": source.inputs,
        "image_size": list(source.size),
        "classes": source.classes,
        "read": {"pictures": len(source.pictures), "bytes": source.bytes, "resized": source.resized},
        "ignored": {"files": len(source.ignored), "examples": list(source.ignored[:_EXAMPLES])},
        "duplicates": {
            "dropped": drop_duplicates,
            "pictures": len(duplicates),
            "examples": [list(pair) for pair in duplicates[:_EXAMPLES]],
        },
        "split": settings,
        "splits": {
            name: {
                "pictures": len(splits[name]),
                "fraction": round(len(splits[name]) / sum(map(len, splits.values())), 6),
                "by_class": count_by_class(splits[name], source.classes),
                **({"without_label": sum(not one.labels for one in splits[name])} if source.several else {}),
            }
            for name in SPLITS
        },
        "leakage": {name: _shared(splits["train"], splits[name]) for name in SPLITS if name != "train"},
        "channel_mean": mean,
        "channel_std": std,
    }
    return PictureCorpus(splits, description, report, _warnings(report))


def split_pictures(
    pictures: Sequence[Picture],
    *,
    validation_split: float,
    test_split: float,
    split_seed: int,
    max_train_samples: int | None,
    max_val_samples: int | None,
) -> PictureSplits:
    """Divide pictures by a hash of their pixels and the seed, so that equal ones are never parted.

    A picture stays in its split whatever is added to the corpus, and whatever its file is called. Arguments as for
    `build_picture_corpus`.

    Raises:
        CorpusError: a split with a share gets no picture.
    """
    shares = {"train": 1 - validation_split - test_split, "validation": validation_split, "test": test_split}
    splits: PictureSplits = {name: [] for name in SPLITS}
    for picture in pictures:
        splits[split_of(picture.hash, shares, split_seed)].append(picture)
    for name, share in shares.items():
        if share > 0 and not splits[name]:
            message = f"the {name} split gets no picture: there are {len(pictures)}, and {name} is to hold {share:.0%}"
            raise CorpusError(message, hint="add pictures, try another dataset.split_seed, or set the share to 0")
    limits = {"train": max_train_samples, "validation": max_val_samples, "test": None}
    return {name: _sample(splits[name], limit, split_seed) for name, limit in limits.items()}


def channel_figures(pictures: Sequence[Picture]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over all pixels of all pictures, with white as 1.

    They are sums of whole numbers, so they are the same on every machine.
    """
    channels = len(pictures[0].pixels)
    count = sum(picture.pixels[0].size for picture in pictures)
    sums, squares = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    for picture in pictures:
        values = picture.pixels.reshape(channels, -1).astype(np.int64)
        sums += values.sum(axis=1)
        squares += (values**2).sum(axis=1)
    mean = sums / count / 255
    std = np.sqrt(np.maximum(squares / count / 255**2 - mean**2, 0))
    return [round(float(value), 6) for value in mean], [max(round(float(value), 6), _FLATTEST) for value in std]


def write_picture_corpus(corpus: PictureCorpus, folder: Path) -> None:
    """Write the arrays of every split and pictures.json. See `picture_arrays`."""
    several = len(corpus.description["classes"]) if corpus.description["kind"] == SEVERAL else 0
    for name, pictures in corpus.splits.items():
        pixels, labels = (picture.pixels for picture in pictures), [picture.labels for picture in pictures]
        write_split(folder, name, pixels, labels, several=several)
    write_artefact(folder / DESCRIPTION, "pictures", corpus.description)


def _without_duplicates(source: PictureSource, *, drop: bool) -> tuple[list[Picture], list[tuple[str, str]]]:
    """The pictures that stay, and pairs of names of equal pictures."""
    first: dict[str, Picture] = {}
    duplicates, kept = [], []
    for picture in source.pictures:
        earlier = first.setdefault(picture.hash, picture)
        if earlier.labels != picture.labels:
            both = " and ".join(_in_words(one, source.classes) for one in (earlier, picture))
            what = "two sets of labels" if source.several else "two classes"
            hint = "decide which is right, and remove the other file"
            message = f"the same picture is of {what}, {both}; the other one is {earlier.name}"
            raise CorpusError(message, where=picture.name, hint=hint)
        if earlier is not picture:
            duplicates.append((earlier.name, picture.name))
        if earlier is picture or not drop:
            kept.append(picture)
    return kept, duplicates


def _in_words(picture: Picture, classes: list[str]) -> str:
    return ", ".join(classes[label] for label in picture.labels) or "none"


def _sample(pictures: list[Picture], limit: int | None, seed: int) -> list[Picture]:
    """A fair sample in the order of the source; a smaller limit takes a part of what a larger one takes."""
    if limit is None or limit >= len(pictures):
        return pictures
    order = sorted(range(len(pictures)), key=lambda index: place_of(pictures[index].hash, seed))
    return [pictures[index] for index in sorted(order[:limit])]


def _check_classes(splits: PictureSplits, classes: list[str]) -> None:
    counts = count_by_class(splits["train"], classes)
    if missing := [name for name, count in counts.items() if count == 0]:
        message = f"no picture of {missing[0]} is in the training split"
        hint = "add pictures of it, raise dataset.max_train_samples, or try another dataset.split_seed"
        raise CorpusError(message, hint=hint)


def _shared(train: list[Picture], held_out: list[Picture]) -> int:
    known = {picture.hash for picture in train}
    return sum(picture.hash in known for picture in held_out)


def _warnings(report: dict[str, Any]) -> list[str]:
    warnings = []
    if count := report["ignored"]["files"]:
        first = report["ignored"]["examples"][0]
        reason = "not named in the table" if report["kind"] == SEVERAL else "no pictures by their names"
        warnings.append(f"{count} files are {reason} and were left out, as {first}")
    for name in ("validation", "test"):
        counts = report["splits"][name]["by_class"]
        missing = [label for label, count in counts.items() if count == 0]
        if missing and report["splits"][name]["pictures"]:
            warnings.append(f"the {name} split has no picture of {', '.join(missing)}: they are not judged")
    return warnings
