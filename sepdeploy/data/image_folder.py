"""A folder of images, one subfolder per class: ``train/<class>/*.png``, ``test/<class>/*``.

The ImageNet layout is the same with ``val`` for ``test`` and images of many sizes, which
"image-folder:224" brings to one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sepdeploy.data.dataset import Dataset, Split, make_dataset
from sepdeploy.data.folders import find_folder
from sepdeploy.errors import BadInput, Missing

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif"})
TEST_FOLDERS = ("test", "val", "validation")
MAX_SIZE = 1024  # pixels per side that images are brought to
MAX_BYTES = 1 << 33  # of all images of a split: they are held in memory
GREY = frozenset({"1", "L", "I", "I;16", "F", "LA"})


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
    images = np.empty((len(paths), *first.shape), dtype=np.uint8)
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
            with from_pillow.open(path) as image:
                if image.mode not in GREY:
                    return False
        except (OSError, ValueError, SyntaxError, from_pillow.DecompressionBombError) as error:
            raise _damaged(path, error) from error
    return True


def _read(path: Path, *, grey: bool, size: int) -> npt.NDArray[np.uint8]:
    """Return one image as (C, H, W), scaled and cropped to size×size unless that is 0."""
    from_pillow = _pillow()
    try:
        with from_pillow.open(path) as image:
            converted = image.convert("L" if grey else "RGB")
            fitted = _fit(converted, size, from_pillow) if size else converted
            pixels = np.asarray(fitted, dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, from_pillow.DecompressionBombError) as error:
        raise _damaged(path, error) from error
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def _fit(image: Any, size: int, from_pillow: Any) -> Any:
    width, height = image.size
    scale = size / min(width, height)
    scaled = (max(size, round(width * scale)), max(size, round(height * scale)))
    if scaled != image.size:
        image = image.resize(scaled, from_pillow.Resampling.BILINEAR)
    left, top = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    return image.crop((left, top, left + size, top + size))


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
