"""Data sets of small images: one call, one shape, fixed splits.

``load(name, data_dir)`` gives a ``Dataset``; names are the keys of ``DATASETS`` or the path of an
``.npz`` file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sepdeploy.data.cifar import load_cifar
from sepdeploy.data.dataset import Dataset, Split, split_validation
from sepdeploy.data.digits import load_digits
from sepdeploy.data.idx import load_idx
from sepdeploy.data.image_folder import load_image_folder
from sepdeploy.data.npz import load_npz
from sepdeploy.data.svhn import load_svhn
from sepdeploy.errors import unknown_name

Loader = Callable[[str, Path | None], Dataset]

DATASETS: dict[str, Loader] = {
    "digits": load_digits,
    "mnist": load_idx,
    "fashion-mnist": load_idx,
    "cifar10": load_cifar,
    "cifar100": load_cifar,
    "svhn": load_svhn,
    "image-folder": load_image_folder,
    "npz": load_npz,
}

SIZED = frozenset({"image-folder"})  # take a size: "image-folder:64"

__all__ = ["DATASETS", "Dataset", "Split", "check_name", "load", "split_validation"]


def load(name: str, data_dir: str | Path | None = None) -> Dataset:
    """Load a data set by name.

    Args:
        name: A key of ``DATASETS``, "image-folder:64" (images brought to 64×64), or the path of
            an ``.npz`` file.
        data_dir: Folder of its files; None = the subfolder of that name in SEPDEPLOY_DATA.

    Raises:
        BadInput: Unknown name, missing folder, damaged file.
        Missing: An optional package is needed and absent.
    """
    return check_name(name)(name, None if data_dir is None else Path(data_dir))


def check_name(name: str) -> Loader:
    """Return what loads a data set, without looking for it.

    Raises:
        BadInput: Unknown name.
    """
    family = name.partition(":")[0]
    if name in DATASETS or family in SIZED:
        return DATASETS[family]
    if name.endswith(".npz"):
        return load_npz
    raise unknown_name(
        "data set",
        name,
        DATASETS,
        hint="known: " + ", ".join(DATASETS) + ", or the path of an .npz file",
    )
