"""A folder of images, one subfolder per class: ``train/<class>/*.png``, ``test/<class>/*``.

The ImageNet layout is the same with ``val`` for ``test`` and images of many sizes, which
"image-folder:224" brings to one.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sepdeploy.data.dataset import Dataset, Split, make_dataset
from sepdeploy.data.folders import find_folder
from sepdeploy.data.image_file import all_grey, read_image, suffixes
from sepdeploy.errors import BadInput

TEST_FOLDERS = ("test", "val", "validation")
MAX_SIZE = 1024  # pixels per side that images are brought to
MAX_BYTES = 1 << 33  # of all images of a split: they are held in memory


def load_image_folder(name: str, data_dir: Path | None) -> Dataset:
    """Load a folder with ``train`` and ``test``, each with one subfolder of images per class.

    Classes are numbered in the alphabetical order of the training subfolders, images (those of
    subfolders too) sorted by name, so the result depends on the names only; hidden files and
    files that are no images are passed over, which ``notes`` says. Without a size all images must
    have the same; with one, the shorter side is scaled to it and the middle kept. A data set of
    grey images alone has one channel, any other three.

    Args:
        name: "image-folder", or "image-folder:SIZE".
        data_dir: The folder; None = the subfolder ``image-folder`` of SEPDEPLOY_DATA.

    Raises:
        BadInput: A folder is missing, empty or hidden, an image is damaged or has another size,
            or there are too many images for memory.
        Missing: Pillow is not installed.
    """
    size = _wanted_size(name)
    folder = find_folder("image-folder", data_dir)
    second = next((n for n in TEST_FOLDERS if (folder / n).is_dir()), TEST_FOLDERS[0])
    parts = {part: _find(folder / part) for part in ("train", second)}
    files = {part: found.classes for part, found in parts.items()}
    classes = tuple(sorted(files["train"]))
    extra = sorted(set(files[second]) - set(classes))
    if extra:
        raise BadInput(
            f"{folder / second}: class '{extra[0]}' is not among the training classes",
            hint="both need the same class folders",
        )
    notes = [note for part in parts.values() for note in part.notes]
    if absent := [name for name in classes if name not in files[second]]:
        notes.append(f"{folder / second}: no images of class {', '.join(absent)}")
    grey = all_grey([p for part in files.values() for group in part.values() for p in group])
    splits = {part: _split(found, classes, grey=grey, size=size) for part, found in files.items()}
    made = make_dataset(folder.name, splits["train"], splits[second], classes)
    return replace(made, notes=tuple(notes))


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


@dataclass(frozen=True)
class _Part:
    """The images of one split by class, and what was not taken."""

    classes: dict[str, list[Path]]
    notes: tuple[str, ...]


def _find(folder: Path) -> _Part:
    """Find the images of every class folder, those in its subfolders too.

    Raises:
        BadInput: There is no such folder or class, a class is empty or hidden, or two differ in
            case alone.
    """
    if not folder.is_dir():
        raise BadInput(
            f"image folder {folder} does not exist",
            hint="expected train/<class>/*.png and test/<class>/*.png",
        )
    known = suffixes()
    passed_over: Counter[str] = Counter()
    found: dict[str, list[Path]] = {}
    for group in sorted(folder.iterdir()):
        if not group.is_dir():
            passed_over["outside the class folders"] += 1
            continue
        images = _images(group, known, passed_over)
        if group.name.startswith("."):
            if images:
                raise BadInput(
                    f"class folder {group} is hidden but holds {len(images)} images",
                    hint="rename it if it is a class, remove it if not",
                )
            continue
        if not images:
            raise BadInput(
                f"class folder {group} holds no image",
                hint="remove it if it is no class: classes are numbered by these folders",
            )
        found[group.name] = images
    if not found:
        raise BadInput(
            f"image folder {folder} holds no class folder with images",
            hint="expected one subfolder per class; known endings: .png .jpg .webp .tif .bmp ...",
        )
    _refuse_same_but_for_case(folder, found)
    told = ", ".join(f"{count} {why}" for why, count in sorted(passed_over.items()))
    count = sum(passed_over.values())
    return _Part(found, (f"{folder}: {count} files passed over ({told})",) if count else ())


def _images(group: Path, known: frozenset[str], passed_over: Counter[str]) -> list[Path]:
    """Return the images below a folder, sorted by their paths; links to folders are followed."""
    found: list[Path] = []
    seen: set[str] = set()
    for root, folders, names in os.walk(group, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.startswith("."):
                passed_over["hidden"] += 1
            elif Path(name).suffix.lower() not in known:
                passed_over[f"without an image's ending, as {Path(name).suffix or name}"] += 1
            else:
                found.append(Path(root, name))
    return sorted(found, key=lambda path: path.relative_to(group).parts)


def _refuse_same_but_for_case(folder: Path, found: dict[str, list[Path]]) -> None:
    first: dict[str, str] = {}
    for name in found:
        other = first.setdefault(name.casefold(), name)
        if other != name:
            raise BadInput(
                f"{folder}: the classes '{other}' and '{name}' differ in case alone",
                hint="put them together, or rename one",
            )


def _split(
    found: dict[str, list[Path]], classes: tuple[str, ...], *, grey: bool, size: int
) -> Split:
    paths = [(label, p) for label, name in enumerate(classes) for p in found.get(name, [])]
    first = read_image(paths[0][1], grey=grey, size=size)
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
        image = read_image(path, grey=grey, size=size)
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
