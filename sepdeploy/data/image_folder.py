"""A folder of images, one subfolder per class: ``train/<class>/*.png``, ``test/<class>/*``.

The ImageNet layout is the same with ``val`` for ``test`` and images of many sizes, which
"image-folder:224" brings to one.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sepdeploy.data.dataset import Dataset, Split, make_dataset
from sepdeploy.data.folders import find_folder
from sepdeploy.errors import BadInput, Missing
from sepdeploy.files import open_plain

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif"})
TEST_FOLDERS = ("test", "val", "validation")
MAX_SIZE = 1024  # pixels per side that images are brought to
MAX_BYTES = 1 << 33  # of all images of a split: they are held in memory
GREY = frozenset({"1", "L", "LA"})
DEEP = ("I", "F")  # how the modes of grey images with more than 8 bits begin
BITS, PHOTOMETRIC = 258, 262  # tags of a TIFF file
# Everything that Pillow answers damaged and hostile files with, beside its own error.
UNREADABLE = (
    OSError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, MemoryError,
    NotImplementedError, SyntaxError, struct.error, zlib.error,
)  # fmt: skip


def load_image_folder(name: str, data_dir: Path | None) -> Dataset:
    """Load a folder with ``train`` and ``test``, each with one subfolder of images per class.

    Classes are numbered in the alphabetical order of the training subfolders, images sorted by
    name, so the result depends on the names only. Without a size all images must have the same;
    with one, the shorter side is scaled to it and the middle kept. A data set of grey images
    alone has one channel, any other three.

    Args:
        name: "image-folder", or "image-folder:SIZE".
        data_dir: The folder; None = the subfolder ``image-folder`` of SEPDEPLOY_DATA.

    Raises:
        BadInput: A folder is missing or empty, an image is damaged or has another size, or there
            are too many images for memory.
        Missing: Pillow is not installed.
    """
    size = _wanted_size(name)
    folder = find_folder("image-folder", data_dir)
    second = next((n for n in TEST_FOLDERS if (folder / n).is_dir()), TEST_FOLDERS[0])
    files = {part: _files(folder / part) for part in ("train", second)}
    classes = tuple(sorted(files["train"]))
    extra = sorted(set(files[second]) - set(classes))
    if extra:
        raise BadInput(
            f"{folder / second}: class '{extra[0]}' is not among the training classes",
            hint="both need the same class folders",
        )
    grey = _all_grey([p for part in files.values() for group in part.values() for p in group])
    splits = {part: _split(found, classes, grey=grey, size=size) for part, found in files.items()}
    return make_dataset(folder.name, splits["train"], splits[second], classes)


def _wanted_size(name: str) -> int:
    """Pixels per side, 0 = the images' own."""
    _, colon, text = name.partition(":")
    if not colon:
        return 0
    if not text.isdecimal() or not 4 <= int(text) <= MAX_SIZE:
        raise BadInput(
            f"data set '{name[:40]}': '{text[:20]}' is no size between 4 and {MAX_SIZE}",
            hint="for example image-folder:64",
        )
    return int(text)


def _files(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise BadInput(
            f"image folder {folder} does not exist",
            hint="expected train/<class>/*.png and test/<class>/*.png",
        )
    found = {
        group.name: sorted(p for p in group.iterdir() if p.suffix.lower() in SUFFIXES)
        for group in sorted(folder.iterdir())
        if group.is_dir() and not group.name.startswith(".")
    }
    found = {name: paths for name, paths in found.items() if paths}
    if not found:
        raise BadInput(
            f"image folder {folder} holds no class folder with images",
            hint=f"known endings: {' '.join(sorted(SUFFIXES))}",
        )
    return found


def _split(
    found: dict[str, list[Path]], classes: tuple[str, ...], *, grey: bool, size: int
) -> Split:
    paths = [(label, p) for label, name in enumerate(classes) for p in found.get(name, [])]
    first = _read(paths[0][1], grey=grey, size=size)
    if len(paths) * first.size > MAX_BYTES:
        raise BadInput(
            f"{len(paths):,} images of {_size(first)} pixels do not fit in "
            f"{MAX_BYTES >> 30} GiB of memory",
            hint="choose a smaller size: image-folder:64",
        )
    try:
        images = np.empty((len(paths), *first.shape), dtype=np.uint8)
    except MemoryError as error:
        raise BadInput(
            f"{len(paths):,} images of {_size(first)} pixels do not fit in memory",
            hint="choose a smaller size: image-folder:64",
        ) from error
    for row, (_, path) in enumerate(paths):
        image = _read(path, grey=grey, size=size)
        if image.shape != first.shape:
            raise BadInput(
                f"{path}: {_size(image)} pixels, but {paths[0][1].name} has {_size(first)}",
                hint=f"bring all images to one size: image-folder:{min(first.shape[1:])}",
            )
        images[row] = image
    labels = np.array([label for label, _ in paths], dtype=np.int64)
    return Split(images, labels, np.arange(len(labels), dtype=np.int64))


def _size(image: npt.NDArray[np.uint8]) -> str:
    return f"{image.shape[2]}x{image.shape[1]}"


def _all_grey(paths: list[Path]) -> bool:
    # The mode stands in the file's header, so this reads no pixels.
    from_pillow = _pillow()
    for path in paths:
        try:
            with open_plain(path) as stream, from_pillow.open(stream) as image:
                if image.mode not in GREY and not image.mode.startswith(DEEP):
                    return False
        except (*UNREADABLE, from_pillow.DecompressionBombError) as error:
            raise _damaged(path, error) from error
    return True


def _read(path: Path, *, grey: bool, size: int) -> npt.NDArray[np.uint8]:
    """Return one image as (C, H, W), scaled and cropped to size×size unless that is 0."""
    from_pillow = _pillow()
    try:
        with open_plain(path) as stream, from_pillow.open(stream) as image:
            deep = image.mode.startswith(DEEP)
            shallow = from_pillow.fromarray(_eight_bits(image, path)) if deep else image
            converted = shallow.convert("L" if grey else "RGB")
            fitted = _fit(converted, size, from_pillow) if size else converted
            pixels = np.asarray(fitted, dtype=np.uint8)
    except (*UNREADABLE, from_pillow.DecompressionBombError) as error:
        raise _damaged(path, error) from error
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


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
