"""Pictures of a source as arrays: handwritten digits of scikit-learn, or the files in a folder of class folders."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.sources import name_of
from pipeline.errors import CorpusError
from pipeline.files import sha256_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]  # (C, H, W), 0 is black and 255 is white
Size = tuple[int, int, int]  # channels, height and width

MAX_PIXELS = 50_000_000  # of one file as it stands on disk; a 50-megapixel photograph is 150 MB once it is decoded
MAX_BYTES = 2_000_000_000  # of all pictures together, which are held in memory
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # of those endings; Pillow reads many more
_MODE_OF = {1: "L", 3: "RGB"}  # channels → Pillow's name for them
_INSTALL = 'pip install "model-foundry[vision]"'
# What Pillow raises for files that are cut off or damaged, from its own code and from the libraries below it.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, struct.error, zlib.error)


@dataclass(frozen=True)
class Picture:
    """One picture, ready to be learned from.

    Attributes:
        name: where it is from, for messages and reports.
        label: number of its class.
        pixels: see `Pixels`.
    """

    name: str
    label: int
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
        classes: names, in the order of their numbers.
        size: of every picture.
        inputs: what they were read from → SHA-256 of its bytes.
        bytes: bytes of what was read.
        resized: how many files had another size.
        ignored: files that are not pictures by their names.
    """

    pictures: list[Picture]
    classes: list[str]
    size: Size
    inputs: dict[str, str]
    bytes: int
    resized: int = 0
    ignored: tuple[str, ...] = ()


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
        raise CorpusError("the digits are part of scikit-learn, which is not installed", hint=_INSTALL) from error
    found = load_digits()
    shades = found.images.astype(np.int64)  # (N, 8, 8), 0 to 16
    pixels = ((shades * 255 + 8) // 16).astype(np.uint8)[:, np.newaxis]
    labels = found.target.astype("<i8")
    pictures = [Picture(f"digit {n}", int(label), pixels[n]) for n, label in enumerate(labels)]
    data = pixels.tobytes() + labels.tobytes()
    inputs = {"scikit-learn digits": sha256_bytes(data)}
    return PictureSource(pictures, [str(name) for name in found.target_names], (1, 8, 8), inputs, len(data))


def read_image_folder(*, path: str, image_size: list[int], fit: str = "crop", project: Path) -> PictureSource:
    """Pictures in a folder that has one folder for each class.

    A class is called as its folder. Inside a class folder, pictures may lie in folders of any depth; hidden files and
    files that are no pictures by their names are left out. Of a file with several frames, the first is taken.

    Args:
        path: the folder, relative to the project.
        image_size: channels (1: grey, 3: colour), height and width that every picture is brought to.
        fit: a key of `FITS`: how a picture of another size is brought to it.
        project: the folder that the path is relative to.

    Raises:
        CorpusError: the folder does not exist, has fewer than two classes or a class without pictures; a file is
            damaged, too large or not of the right size; or all of them would not fit into memory.
    """
    size: Size = (image_size[0], image_size[1], image_size[2])
    files = _files_by_class(path, project)
    if empty := [name for name, (found, _) in files.items() if not found]:
        hint = f"pictures end in {', '.join(ENDINGS)}; add some or remove the folder"
        raise CorpusError(f"the class {empty[0]} has no picture", where=f"{path}/{empty[0]}", hint=hint)
    count = sum(len(found) for found, _ in files.values())
    if count * int(np.prod(size)) > MAX_BYTES:
        message = f"{count:,} pictures of {' x '.join(map(str, size))} are more than {MAX_BYTES:,} bytes"
        raise CorpusError(message, where=path, hint="lower dataset.source.image_size, or take fewer files")
    pictures, inputs, read_bytes, resized = [], {}, 0, 0
    for label, (found, _) in enumerate(files.values()):
        for file in found:
            name = name_of(file, project)
            data = _bytes_of(file, name)
            pixels, was_resized = decode_picture(data, name=name, size=size, fit=fit)
            pictures.append(Picture(name, label, pixels))
            inputs[name] = sha256_bytes(data)
            read_bytes += len(data)
            resized += was_resized
    ignored = tuple(name_of(file, project) for _, others in files.values() for file in others)
    return PictureSource(pictures, list(files), size, inputs, read_bytes, resized, ignored)


def files_of_folder(path: str, project: Path) -> dict[str, Path]:
    """Name in the corpus → file, for every picture in a folder of class folders.

    Raises:
        CorpusError: the folder does not exist, or has fewer than two classes.
    """
    classes = _files_by_class(path, project).values()
    return {name_of(file, project): file for found, _ in classes for file in found}


PICTURE_SOURCES: Mapping[str, Callable[..., PictureSource]] = {
    "digits": read_digits,
    "image_folder": read_image_folder,
}


def decode_picture(data: bytes, *, name: str, size: Size, fit: str) -> tuple[Pixels, bool]:
    """The pixels of a picture file, upright and of the size asked for.

    A picture that is stored lying down is turned as its EXIF orientation says. What is transparent lies on white.

    Args:
        data: bytes of the file.
        name: of the file, for messages.
        size: channels, height and width.
        fit: a key of `FITS`.

    Returns:
        The pixels, and whether the file had another height or width.

    Raises:
        CorpusError: it is no picture of a known format, is damaged, unreasonably large, or refused by `fit`; or Pillow
            is not installed.
    """
    try:
        from PIL import Image, ImageOps  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise CorpusError("reading pictures takes Pillow, which is not installed", hint=_INSTALL) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # of metadata, which is not used
            with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise _too_large(name)
                opened.load()
                upright = ImageOps.exif_transpose(opened)
                picture = _flat(upright, mode=_MODE_OF[size[0]], name=name)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise _too_large(name) from error
    except _DAMAGED as error:
        hint = "open it in an image viewer: save it again as PNG or JPEG, or remove it"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        message = f"the file is not a picture that can be read, or is damaged: {_plain(reason)}"
        raise CorpusError(message, where=name, hint=hint) from error
    height, width = size[1:]
    other_size = picture.size != (width, height)
    if other_size:
        picture = FITS[fit](picture, width, height, name)
    pixels = np.asarray(picture, np.uint8).reshape(height, width, size[0])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), other_size


def _files_by_class(path: str, project: Path) -> dict[str, tuple[list[Path], list[Path]]]:
    """Class → its pictures and its other files."""
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


def _bytes_of(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except PermissionError as error:
        raise CorpusError("the file may not be read", where=name, hint="change its permissions") from error


def _flat(picture: Image, *, mode: str, name: str) -> Image:
    """A picture without transparency, in the channels asked for."""
    from PIL import Image  # noqa: PLC0415 - an extra

    if picture.mode in ("I", "F"):
        message = f"pixels of the kind {picture.mode!r} have no fixed white"
        raise CorpusError(message, where=name, hint="save it with 8 or 16 bits for each channel")
    if picture.mode.startswith("I;16"):  # Pillow would cut off what is above 255
        return Image.fromarray((np.asarray(picture, np.uint16) >> 8).astype(np.uint8)).convert(mode)
    if picture.has_transparency_data:
        shown = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert(mode)
    return picture.convert(mode)


def _crop(picture: Image, width: int, height: int, _name: str) -> Image:
    """Scale until the smaller side fits, and take the middle."""
    from PIL import Image, ImageOps  # noqa: PLC0415 - an extra

    return ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR)


def _pad(picture: Image, width: int, height: int, _name: str) -> Image:
    """Scale until the larger side fits, and fill up with black."""
    from PIL import Image, ImageOps  # noqa: PLC0415 - an extra

    return ImageOps.pad(picture, (width, height), Image.Resampling.BILINEAR)


def _stretch(picture: Image, width: int, height: int, _name: str) -> Image:
    """Scale each side by itself."""
    from PIL import Image  # noqa: PLC0415 - an extra

    return picture.resize((width, height), Image.Resampling.BILINEAR)


def _exact(picture: Image, width: int, height: int, name: str) -> Image:
    """Refuse every other size."""
    message = f"the picture is {picture.width} x {picture.height} pixels, not {width} x {height}"
    hint = "scale it, or set dataset.source.fit to crop, pad or stretch"
    raise CorpusError(message, where=name, hint=hint)


FITS: Mapping[str, Callable[[Image, int, int, str], Image]] = {
    "crop": _crop,
    "pad": _pad,
    "stretch": _stretch,
    "exact": _exact,
}


def _too_large(name: str) -> CorpusError:
    hint = "scale it down, or remove it; a small file that unpacks to gigabytes is made to exhaust memory"
    return CorpusError(f"the picture has more than {MAX_PIXELS:,} pixels", where=name, hint=hint)


def _plain(reason: str) -> str:
    """What a library said, without the address of the object that it was said about."""
    return reason.split(" <", 1)[0]


def count_by_class(pictures: list[Picture], classes: list[str]) -> dict[str, int]:
    """How many pictures each class has, in the order of the classes."""
    counts = Counter(picture.label for picture in pictures)
    return {name: counts[label] for label, name in enumerate(classes)}
