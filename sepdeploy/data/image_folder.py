"""A folder of images, one subfolder per class: ``train/<class>/*.png``, ``test/<class>/*``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sepdeploy.data.dataset import Dataset, Split, make_dataset
from sepdeploy.data.folders import find_folder
from sepdeploy.errors import BadInput, Missing

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif"})
GREY = frozenset({"1", "L", "I", "I;16", "F", "LA"})


def load_image_folder(name: str, data_dir: Path | None) -> Dataset:
    """Load a folder with ``train`` and ``test``, each with one subfolder of images per class.

    Classes are numbered in the alphabetical order of the training subfolders, images sorted by
    name, so the result depends on the names only. All images must have one size; a data set of
    grey images alone has one channel, any other three.

    Args:
        name: "image-folder".
        data_dir: The folder; None = the subfolder ``image-folder`` of SEPDEPLOY_DATA.

    Raises:
        BadInput: A folder is missing or empty, an image is damaged or has another size.
        Missing: Pillow is not installed.
    """
    folder = find_folder(name, data_dir)
    files = {part: _files(folder / part) for part in ("train", "test")}
    classes = tuple(sorted(files["train"]))
    extra = sorted(set(files["test"]) - set(classes))
    if extra:
        raise BadInput(
            f"{folder / 'test'}: class '{extra[0]}' is not among the training classes",
            hint="train and test need the same class folders",
        )
    grey = _all_grey([p for part in files.values() for group in part.values() for p in group])
    splits = {part: _split(found, classes, grey=grey) for part, found in files.items()}
    return make_dataset(folder.name, splits["train"], splits["test"], classes)


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


def _split(found: dict[str, list[Path]], classes: tuple[str, ...], *, grey: bool) -> Split:
    paths = [(label, p) for label, name in enumerate(classes) for p in found.get(name, [])]
    first = _read(paths[0][1], grey=grey)
    images = np.empty((len(paths), *first.shape), dtype=np.uint8)
    for row, (_, path) in enumerate(paths):
        image = _read(path, grey=grey)
        if image.shape != first.shape:
            raise BadInput(
                f"{path}: {_size(image)} pixels, but {paths[0][1].name} has {_size(first)}",
                hint="bring all images to one size",
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


def _read(path: Path, *, grey: bool) -> npt.NDArray[np.uint8]:
    """Return one image as (C, H, W)."""
    from_pillow = _pillow()
    try:
        with from_pillow.open(path) as image:
            pixels = np.asarray(image.convert("L" if grey else "RGB"), dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, from_pillow.DecompressionBombError) as error:
        raise _damaged(path, error) from error
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


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
