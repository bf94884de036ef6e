"""SVHN, cropped digits (format 2): ``train_32x32.mat`` and ``test_32x32.mat``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sepdeploy.data.dataset import Dataset, Split, make_dataset
from sepdeploy.data.folders import find_folder
from sepdeploy.data.matlab import read_arrays
from sepdeploy.errors import DATA_SET, BadInput

ZERO = 10  # how the files label the digit 0


def load_svhn(name: str, data_dir: Path | None) -> Dataset:
    """Load SVHN from its two MATLAB files.

    Args:
        name: "svhn".
        data_dir: Folder with the files, or with a subfolder of that name; None = SEPDEPLOY_DATA.

    Raises:
        BadInput: Folder or file missing, damaged, or holding something else.
    """
    folder = find_folder(name, data_dir)
    train, test = (_split(folder / f"{part}_32x32.mat") for part in ("train", "test"))
    return make_dataset(name, train, test, tuple(map(str, range(10))))


def _split(path: Path) -> Split:
    if not path.is_file():
        raise BadInput(
            f"{path.parent}: {path.name} is not there",
            hint="give the folder of train_32x32.mat and test_32x32.mat with --data-dir",
        )
    arrays = read_arrays(path)
    images, labels = arrays.get("X"), arrays.get("y")
    if images is None or labels is None or images.dtype != np.uint8 or images.ndim != 4:
        raise BadInput(f"{path}: no images X and labels y in it", hint="fetch the file again")
    numbers = labels.reshape(-1)
    if images.shape[2] != 3 or images.shape[3] != len(numbers):
        raise BadInput(f"{path}: {len(numbers)} labels for images {images.shape}", hint=DATA_SET)
    if not np.isin(numbers, np.arange(ZERO + 1)).all():  # nor is a NaN in there, or a half
        raise BadInput(f"{path}: a label is none of 0 … {ZERO}", hint="fetch the file again")
    pixels = np.ascontiguousarray(images.transpose(3, 2, 0, 1)).astype(np.uint8, copy=False)
    return Split(pixels, numbers.astype(np.int64) % ZERO, np.arange(len(numbers), dtype=np.int64))
