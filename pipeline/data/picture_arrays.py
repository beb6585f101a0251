"""Pictures as they lie on disk, from the corpus stage to the trained model.

Per split two files, little-endian: `<split>.pictures.bin`, uint8 (N, C, H, W), and `<split>.labels.bin`: the class of
each, int64 (N,), or 1 where a picture has a label, uint8 (N, K). A split without pictures has empty files.
`pictures.json` beside them says how they are read: size, classes, and the brightness of the training split. The
tokenizer stage carries all of it on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.splits import SPLITS
from pipeline.files import read_artefact, write_artefact

KIND, SEVERAL = "pictures", "multilabel_pictures"  # what pictures.json and tokenizer.json say the corpus is made of
DESCRIPTION = "pictures.json"
FORMAT_VERSION = 1  # of pictures.json and of the reports
PICTURES, LABELS = ".pictures.bin", ".labels.bin"  # how the files of a split end


def write_split(
    folder: Path, name: str, pixels: Iterable[NDArray[np.uint8]], labels: Sequence[Sequence[int]], *, several: int
) -> None:
    """Write the two files of a split.

    Args:
        folder: where to.
        name: of the split.
        pixels: (C, H, W) of each picture.
        labels: numbers of what each picture is of.
        several: how many labels there are that a picture has any number of; 0: each has one class.
    """
    with (folder / f"{name}{PICTURES}").open("wb") as file:
        for picture in pixels:
            file.write(picture.tobytes())
    if several:
        array = np.zeros((len(labels), several), np.uint8)
        for row, numbers in zip(array, labels, strict=True):
            row[list(numbers)] = 1
    else:
        array = np.array([number for (number,) in labels], dtype="<i8")
    (folder / f"{name}{LABELS}").write_bytes(array.tobytes())


def carry_on(corpus: Path, folder: Path) -> dict[str, Any]:
    """Give the arrays of a corpus to the next stage: pictures are learned from as they are.

    Args:
        corpus: of the corpus stage; its manifest has been verified.
        folder: of the tokenizer stage; gets the same arrays, and tokenizer.json.

    Returns:
        What `reports/tokenizer.json` says.
    """
    description: dict[str, Any] = read_artefact(corpus / DESCRIPTION, "pictures")
    for name in SPLITS:
        for ending in (PICTURES, LABELS):
            shutil.copyfile(corpus / f"{name}{ending}", folder / f"{name}{ending}")
    write_artefact(folder / "tokenizer.json", "tokenizer", description)
    return {
        "format_version": FORMAT_VERSION,
        "kind": description["kind"],
        "classes": len(description["classes"]),
        "image_size": description["image_size"],
        "splits": description["splits"],
    }
