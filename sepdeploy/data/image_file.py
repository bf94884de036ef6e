"""One image file as an array: any format that Pillow reads by itself, the way it is shown."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sepdeploy.errors import BadInput, Missing
from sepdeploy.files import open_plain

GREY = frozenset({"1", "L", "LA"})
DEEP = ("I", "F")  # how the modes of grey images with more than 8 bits begin
BITS, PHOTOMETRIC, ORIENTATION = 258, 262, 274  # tags of TIFF and EXIF
# Formats that Pillow knows by name but hands to other programs (Ghostscript) or cannot decode.
NOT_READ = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})
# Everything that Pillow answers damaged and hostile files with, beside its own error.
UNREADABLE = (
    OSError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, MemoryError,
    NotImplementedError, SyntaxError, struct.error, zlib.error,
)  # fmt: skip


def suffixes() -> frozenset[str]:
    """Return the endings of files that can be read, in small letters.

    Raises:
        Missing: Pillow is not installed.
    """
    readable = frozenset(_formats())
    known: dict[str, str] = _pillow().registered_extensions()
    return frozenset(end for end, form in known.items() if form in readable)


def _formats() -> list[str]:
    from_pillow = _pillow()
    from_pillow.init()
    return sorted(set(from_pillow.OPEN) - NOT_READ)


def all_grey(paths: list[Path]) -> bool:
    """Whether no image has colours; reads headers only.

    Raises:
        BadInput: An image is damaged.
        Missing: Pillow is not installed.
    """
    from_pillow, formats = _pillow(), _formats()
    for path in paths:
        try:
            with open_plain(path) as stream, from_pillow.open(stream, formats=formats) as image:
                if image.mode not in GREY and not image.mode.startswith(DEEP):
                    return False
        except (*UNREADABLE, from_pillow.DecompressionBombError) as error:
            raise _damaged(path, error) from error
    return True


def read_image(path: Path, *, grey: bool, size: int) -> npt.NDArray[np.uint8]:
    """Return one image, turned upright as its camera noted (EXIF).

    Args:
        path: The file.
        grey: One channel, else three.
        size: Scale the shorter side to it and keep the middle; 0 leaves the image as it is.

    Returns:
        (C, H, W).

    Raises:
        BadInput: The file is damaged, or its grey values have no known black and white.
        Missing: Pillow is not installed.
    """
    from_pillow, formats = _pillow(), _formats()
    try:
        with open_plain(path) as stream, from_pillow.open(stream, formats=formats) as image:
            deep = image.mode.startswith(DEEP)
            shallow = from_pillow.fromarray(_eight_bits(image, path)) if deep else image
            converted = _upright(shallow, image, from_pillow).convert("L" if grey else "RGB")
            fitted = _fit(converted, size, from_pillow) if size else converted
            pixels = np.asarray(fitted, dtype=np.uint8)
    except (*UNREADABLE, from_pillow.DecompressionBombError) as error:
        raise _damaged(path, error) from error
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def _upright(pixels: Any, image: Any, from_pillow: Any) -> Any:
    """Turn ``pixels`` as the EXIF data of ``image`` says; 1 and unknown values change nothing."""
    image.load()  # a TIFF file is turned by Pillow while it is loaded, and forgets its tag then
    turn = from_pillow.Transpose
    moves = {
        2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE,
        6: turn.ROTATE_270, 7: turn.TRANSVERSE, 8: turn.ROTATE_90,
    }  # fmt: skip
    move = moves.get(image.getexif().get(ORIENTATION))
    return pixels if move is None else pixels.transpose(move)


def _eight_bits(image: Any, path: Path) -> npt.NDArray[np.uint8]:
    """Scale the values of a deep grey image to 0 … 255; Pillow would cut off all above 255."""
    white = _white(image)
    if not white:
        raise BadInput(
            f"{path}: grey values in mode {image.mode}, whose black and white are not known",
            hint="save it with 8 or 16 unsigned bits a pixel",
        )
    values = np.asarray(image).astype(np.uint32)
    return ((values * 255 + white // 2) // white).astype(np.uint8)


def _white(image: Any) -> int:
    """The value of white in a deep grey image; 0 = not known."""
    # Formats without deeper values than 16 bits, whichever mode a version of Pillow gives them.
    if image.format in ("PNG", "PPM") and image.mode.startswith("I"):
        return 0xFFFF
    if image.format == "TIFF" and image.mode.startswith("I;16"):
        bits, zero_is_black = image.tag_v2.get(BITS, (16,))[0], image.tag_v2.get(PHOTOMETRIC) == 1
        return (1 << bits) - 1 if zero_is_black else 0
    return 0


def _fit(image: Any, size: int, from_pillow: Any) -> Any:
    """Scale the shorter side to ``size`` and keep the middle.

    Only the middle is computed: of a file of a few bytes that is thousands of times longer than
    wide, the whole would not fit in memory.
    """
    width, height = image.size
    scale = size / min(width, height)
    scaled = (max(size, round(width * scale)), max(size, round(height * scale)))
    left, top = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    box = (
        left * width / scaled[0], top * height / scaled[1],
        (left + size) * width / scaled[0], (top + size) * height / scaled[1],
    )  # fmt: skip
    return image.resize((size, size), from_pillow.Resampling.BILINEAR, box=box)


def _damaged(path: Path, error: Exception) -> BadInput:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return BadInput(
        f"{path}: not a readable image ({first})", hint="mend, replace or remove the file"
    )


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise Missing(
            "reading image files needs Pillow, which is not installed",
            hint="pip install 'sepdeploy[train]'",
        ) from error
    return Image
