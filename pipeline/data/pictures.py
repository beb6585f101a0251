"""Pictures of a source as arrays: digits of scikit-learn, files in class folders, files that a table names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.picture_files import INSTALL, Pixels, Size, decode_picture, read_picture_file
from pipeline.data.picture_table import read_table
from pipeline.data.sources import name_of
from pipeline.errors import CorpusError
from pipeline.files import sha256_bytes, sha256_file

MAX_BYTES = 2_000_000_000  # of all pictures together, which are held in memory
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")


@dataclass(frozen=True)
class Picture:
    """One picture, ready to be learned from.

    Attributes:
        name: where it is from, for messages and reports.
        labels: numbers of what it is of, ascending: its class alone, or any number of labels.
        pixels: (C, H, W); see `Pixels`.
    """

    name: str
    labels: tuple[int, ...]
    pixels: Pixels

    @cached_property
    def hash(self) -> str:
        """SHA-256 of its pixels: equal pictures have equal hashes, whatever their files are called."""
        return sha256_bytes(self.pixels.tobytes())


@dataclass(frozen=True)
class PictureSource:
    """What a source of pictures holds.

    Attributes:
        pictures: in a fixed order, all of one size.
        classes: names of the classes or labels, in the order of their numbers.
        size: of every picture.
        fit: how pictures of another size were brought to it, and others will be: a key of `picture_files.FITS`.
        inputs: what they were read from → SHA-256 of its bytes.
        bytes: bytes of what was read.
        resized: how many files had another size.
        ignored: files that were left out: not pictures by their names, or not in the table.
        several: whether a picture has any number of labels, not one class.
    """

    pictures: list[Picture]
    classes: list[str]
    size: Size
    fit: str
    inputs: dict[str, str]
    bytes: int
    resized: int = 0
    ignored: tuple[str, ...] = ()
    several: bool = False


def fetch_pictures(source: Mapping[str, Any], *, project: Path) -> PictureSource:
    """Read what `dataset.source` of a spec describes, if it is of pictures.

    Args:
        source: `kind` and the keyword arguments of the function in PICTURE_SOURCES for it.
        project: the folder that paths are relative to.

    Raises:
        CorpusError: the source cannot be had, or holds something else than pictures of two classes or more.
    """
    arguments = {key: value for key, value in source.items() if key != "kind"}
    return PICTURE_SOURCES[source["kind"]](**arguments, project=project)


def read_digits(*, project: Path) -> PictureSource:  # noqa: ARG001 - every source takes the same places
    """The 1,797 handwritten digits that scikit-learn carries: one channel, 8 by 8 pixels, ten classes.

    E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998: its
    test set. Sixteen shades of grey are spread over 0 to 255.

    Raises:
        CorpusError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415 - an extra, and a second to import
    except ImportError as error:
        raise CorpusError("the digits are part of scikit-learn, which is not installed", hint=INSTALL) from error
    found = load_digits()
    shades = found.images.astype(np.int64)  # (N, 8, 8), 0 to 16
    pixels = ((shades * 255 + 8) // 16).astype(np.uint8)[:, np.newaxis]
    labels = found.target.astype("<i8")
    pictures = [Picture(f"digit {n}", (int(label),), pixels[n]) for n, label in enumerate(labels)]
    data = pixels.tobytes() + labels.tobytes()
    inputs = {"scikit-learn digits": sha256_bytes(data)}
    return PictureSource(pictures, [str(name) for name in found.target_names], (1, 8, 8), "pad", inputs, len(data))


def read_image_folder(*, path: str, image_size: list[int], fit: str = "crop", project: Path) -> PictureSource:
    """Pictures in a folder that has one folder for each class.

    A class is called as its folder. Inside a class folder, pictures may lie in folders of any depth; hidden files and
    files that are no pictures by their names are left out. Of a file with several frames, the first is taken.

    Args:
        path: the folder, relative to the project.
        image_size: channels (1: grey, 3: colour), height and width that every picture is brought to.
        fit: a key of `picture_files.FITS`: how a picture of another size is brought to it.
        project: the folder that the path is relative to.

    Raises:
        CorpusError: the folder does not exist, has fewer than two classes or a class without pictures; a file is
            damaged, too large or not of the right size; or all of them would not fit into memory.
    """
    size: Size = (image_size[0], image_size[1], image_size[2])
    files = files_by_class(path, project)
    if empty := [name for name, (found, _) in files.items() if not found]:
        hint = f"pictures end in {', '.join(ENDINGS)}; add some or remove the folder"
        raise CorpusError(f"the class {empty[0]} has no picture", where=f"{path}/{empty[0]}", hint=hint)
    wanted = [(file, (label,)) for label, (found, _) in enumerate(files.values()) for file in found]
    ignored = tuple(name_of(file, project) for _, others in files.values() for file in others)
    return replace(_read(wanted, size=size, fit=fit, where=path, project=project), classes=list(files), ignored=ignored)


def read_image_table(*, path: str, image_size: list[int], fit: str = "crop", project: Path) -> PictureSource:
    """Pictures that a table names, each with any number of labels. See `picture_table.read_table`.

    Pictures that lie in the same folders and are not named in the table are left out.

    Args:
        path: the table, relative to the project.
        image_size: see `read_image_folder`, as for the next two.
        fit: a key of `picture_files.FITS`.
        project: the folder that the path is relative to.

    Raises:
        CorpusError: the table cannot be read, or names fewer than two labels; a file is missing, damaged, too large or
            not of the right size; or all of them would not fit into memory.
    """
    table = project / path
    rows = read_table(table, where=path)
    classes = sorted({label for labels in rows.values() for label in labels})
    if len(classes) < 2:
        there = f"only {classes[0]}" if classes else "none"
        raise CorpusError(f"there must be two labels or more, and there is {there}", where=path, hint="add pictures")
    numbers = {label: number for number, label in enumerate(classes)}
    wanted = [(table.parent / name, tuple(sorted(map(numbers.__getitem__, rows[name])))) for name in sorted(rows)]
    size: Size = (image_size[0], image_size[1], image_size[2])
    found = _read(wanted, size=size, fit=fit, where=path, project=project)
    inputs = {name_of(table, project): sha256_file(table), **found.inputs}
    ignored = tuple(name_of(file, project) for file in _beside([file for file, _ in wanted]))
    return replace(found, classes=classes, ignored=ignored, inputs=inputs, several=True)


def _beside(files: Sequence[Path]) -> list[Path]:
    """Pictures in the folders of some files that are not among them."""
    named, folders = set(files), sorted({file.parent for file in files})
    there = (file for folder in folders for file in sorted(folder.iterdir()) if not file.name.startswith("."))
    return [file for file in there if file.suffix.lower() in ENDINGS and file not in named]


def _read(
    wanted: Sequence[tuple[Path, tuple[int, ...]]], *, size: Size, fit: str, where: str, project: Path
) -> PictureSource:
    """Picture files, each with the numbers of what it is of; the names of those are not known here."""
    if len(wanted) * int(np.prod(size)) > MAX_BYTES:
        message = f"{len(wanted):,} pictures of {' x '.join(map(str, size))} are more than {MAX_BYTES:,} bytes"
        raise CorpusError(message, where=where, hint="lower dataset.source.image_size, or take fewer files")
    pictures, inputs, read_bytes, resized = [], {}, 0, 0
    for file, labels in wanted:
        name = name_of(file, project)
        data = read_picture_file(file, name)
        pixels, was_resized = decode_picture(data, name=name, size=size, fit=fit)
        pictures.append(Picture(name, labels, pixels))
        inputs[name] = sha256_bytes(data)
        read_bytes += len(data)
        resized += was_resized
    return PictureSource(pictures, [], size, fit, inputs, read_bytes, resized)


def files_of_source(source: Mapping[str, Any], project: Path) -> dict[str, Path]:
    """Name in the corpus → file, for every file that a source of pictures reads; empty where it reads none.

    Of a table that is wrong it is not known what it names: then it is the only one.

    Raises:
        CorpusError: the source cannot be had.
    """
    if source["kind"] == "image_folder":
        files = [file for found, _ in files_by_class(source["path"], project).values() for file in found]
    elif source["kind"] == "image_table":
        table = project / source["path"]
        files = [table]
        with suppress(CorpusError):  # the corpus stage says what is wrong with it
            files += [table.parent / name for name in read_table(table, where=source["path"])]
    else:
        files = []
    return {name_of(file, project): file for file in files}


PICTURE_SOURCES: Mapping[str, Callable[..., PictureSource]] = {
    "digits": read_digits,
    "image_folder": read_image_folder,
    "image_table": read_image_table,
}


def files_by_class(path: str, project: Path) -> dict[str, tuple[list[Path], list[Path]]]:
    """Class → its pictures and its other files, in a folder of class folders.

    Raises:
        CorpusError: the folder does not exist, or has fewer than two classes.
    """
    folder = project / path
    return {name: _files_of_class(folder / name) for name in _class_folders(folder, where=path)}


def _class_folders(folder: Path, *, where: str) -> list[str]:
    if not folder.is_dir():
        problem = "this is not a folder" if folder.exists() else "the folder does not exist"
        hint = f"paths are relative to {folder.parent.resolve()}; correct dataset.source.path"
        raise CorpusError(problem, where=where, hint=hint)
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        found = f"only {names[0]}" if names else "none"
        hint = "put the pictures of each class into a folder with the name of the class"
        raise CorpusError(f"there must be two class folders or more, and there is {found}", where=where, hint=hint)
    return names


def _files_of_class(folder: Path) -> tuple[list[Path], list[Path]]:
    """Pictures below a folder, and other files, each sorted by name."""
    below = sorted(path for path in folder.rglob("*") if path.is_file())
    seen = [path for path in below if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    pictures = [path for path in seen if path.suffix.lower() in ENDINGS]
    return pictures, [path for path in seen if path.suffix.lower() not in ENDINGS]


def count_by_class(pictures: list[Picture], classes: list[str]) -> dict[str, int]:
    """How many pictures each class or label has, in the order of the classes."""
    counts = Counter(label for picture in pictures for label in picture.labels)
    return {name: counts[label] for label, name in enumerate(classes)}
