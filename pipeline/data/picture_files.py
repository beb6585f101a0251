"""One picture file as an array: decoded, turned upright, laid on white, and brought to the size asked for."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CorpusError

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]  # (C, H, W), 0 is black and 255 is white
Size = tuple[int, int, int]  # channels, height and width

INSTALL = 'pip install "model-foundry[vision]"'
MAX_PIXELS = 50_000_000  # of one file as it stands on disk; a 50-megapixel photograph is 150 MB once it is decoded
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # Pillow reads many more, which nobody tested here
_MODE_OF = {1: "L", 3: "RGB"}  # channels → Pillow's name for them
# What Pillow raises for files that are cut off or damaged, from its own code and from the libraries below it.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, struct.error, zlib.error)


def read_picture_file(path: Path, name: str) -> bytes:
    """The bytes of a picture file; `name` is what messages call it.

    Raises:
        CorpusError: the operating system refuses.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorpusError(f"the file cannot be read: {error.strerror}", where=name) from error


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
        raise CorpusError("reading pictures takes Pillow, which is not installed", hint=INSTALL) from error
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
