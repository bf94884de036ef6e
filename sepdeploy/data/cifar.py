"""CIFAR-10 and CIFAR-100: the python archives, batches of flattened images, or image folders."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sepdeploy.data.dataset import Dataset, Split, make_dataset
from sepdeploy.data.folders import find_folder
from sepdeploy.data.image_folder import load_image_folder
from sepdeploy.data.plain_pickle import read_plain_pickle, short_text
from sepdeploy.errors import DATA_SET, BadInput

SHAPE = (3, 32, 32)
TRAIN10 = tuple(f"data_batch_{k}" for k in range(1, 6))
# name -> (usual folder, training files, test file, key of the labels, file and key of the names)
LAYOUTS: dict[str, tuple[str, tuple[str, ...], str, str, str, str]] = {
    "cifar10": (
        "cifar-10-batches-py", TRAIN10, "test_batch", "labels", "batches.meta", "label_names",
    ),
    "cifar100": ("cifar-100-python", ("train",), "test", "fine_labels", "meta", "fine_label_names"),
}  # fmt: skip


def load_cifar(name: str, data_dir: Path | None) -> Dataset:
    """Load CIFAR-10 or CIFAR-100 (fine labels) from the files of the python archive, or from PNGs.

    Nothing in the files is executed: see ``plain_pickle``. Class folders in alphabetical order
    are the classes of the archives in theirs; only the order of the images differs.

    Args:
        name: "cifar10" or "cifar100".
        data_dir: Folder with the files (or ``train/<class>/*.png`` and ``test/<class>/*.png``), or
            with a subfolder of the archive's or that name; None = SEPDEPLOY_DATA.

    Raises:
        BadInput: Folder or file missing, damaged, or holding something else.
    """
    usual, train, test, key, names_file, names_key = LAYOUTS[name]
    folder = find_folder(name, data_dir)
    folder = folder / usual if (folder / usual).is_dir() else folder
    if (folder / "train").is_dir():
        return _from_images(name, folder)
    names = _names(folder / names_file, names_key)
    parts = [_read(folder / file, key, len(names)) for file in train]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return make_dataset(
        name,
        _split(images, labels),
        _split(*_read(folder / test, key, len(names))),
        names,
    )


def _from_images(name: str, folder: Path) -> Dataset:
    found = load_image_folder("image-folder", folder)
    if found.input.shape != SHAPE:
        raise BadInput(
            f"{folder}: images are {found.input.shape}, those of {name} {SHAPE}",
            hint="load other images as image-folder",
        )
    return dataclasses.replace(found, name=name)


def _split(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> Split:
    return Split(images, labels, np.arange(len(labels), dtype=np.int64))


def _read(
    path: Path, key: str, classes: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    table = _table(path)
    images, labels = table.get("data"), table.get(key)
    if not isinstance(images, np.ndarray) or images.ndim != 2 or images.shape[1] != 3072:
        raise BadInput(f"{path}: 'data' is no table of 3x32x32 images", hint="fetch it again")
    whole = isinstance(labels, list) and all(type(n) is int for n in labels)
    if not isinstance(labels, list) or not whole or len(labels) != len(images):
        raise BadInput(f"{path}: '{key}' does not label the {len(images)} images", hint=DATA_SET)
    if not all(0 <= n < classes for n in labels):
        raise BadInput(f"{path}: a label is outside 0 … {classes - 1}", hint=DATA_SET)
    return images.reshape(-1, *SHAPE), np.array(labels, dtype=np.int64)


def _names(path: Path, key: str) -> tuple[str, ...]:
    names = _table(path).get(key)
    if not isinstance(names, list) or not names:
        raise BadInput(f"{path}: '{key}' is no list of class names", hint="fetch it again")
    found = tuple(text for n in names if (text := short_text(n)) is not None)
    if len(found) < len(names):
        raise BadInput(f"{path}: a class name in '{key}' is no short text", hint="fetch it again")
    return found


def _table(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BadInput(
            f"{path.parent}: {path.name} is not there",
            hint="give the folder of the unpacked python archive, or of train/<class>/*.png, "
            "with --data-dir",
        )
    return read_plain_pickle(path)
