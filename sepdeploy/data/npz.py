"""A data set in one .npz file with the arrays x_train, y_train, x_test and y_test."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from sepdeploy.data.dataset import Dataset, Images, Split, make_dataset
from sepdeploy.errors import BadInput
from sepdeploy.files import open_plain
from sepdeploy.files.claims import refuse_written

KEYS = ("x_train", "y_train", "x_test", "y_test")
MAX_CLASSES = 1 << 16
SMALL_BYTES = 1 << 28
MAX_RATIO = 64  # unpacked to packed; a file made to exhaust memory reaches a thousand
MAX_BYTES = 1 << 33  # of all arrays together: they are held in memory
# Everything that zipfile and numpy answer damaged and hostile content with.
UNREADABLE = (
    OSError, ValueError, TypeError, KeyError, EOFError, MemoryError, NotImplementedError,
    SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
HINT = "an .npz data set holds x_train, y_train, x_test, y_test (and class_names if you like)"


def load_npz(name: str, data_dir: Path | None) -> Dataset:
    """Load an .npz data set.

    Images are (N, H, W), (N, C, H, W) or (N, H, W, C) with one or three channels; uint8 in
    0..255 or floats in [0, 1].

    Args:
        name: Path of the file, relative to ``data_dir`` if one is given; or "npz", and then
            ``data_dir`` is the file itself.
        data_dir: See ``name``.

    Raises:
        BadInput: The file is missing, damaged, lacks an array, or an array makes no sense.
    """
    path = _path(name, data_dir)
    arrays = _read(path)
    splits = {
        part: _split(path, part, arrays[f"x_{part}"], arrays[f"y_{part}"])
        for part in ("train", "test")
    }
    if "class_names" in arrays:
        names = tuple(str(c) for c in arrays["class_names"].ravel())
    else:
        count = 1 + max(int(s.labels.max(initial=0)) for s in splits.values())
        if count > MAX_CLASSES:
            raise BadInput(f"{path}: labels go up to {count - 1}", hint="number classes from 0")
        names = tuple(str(c) for c in range(count))
    return make_dataset(path.stem, splits["train"], splits["test"], names)


def _path(name: str, data_dir: Path | None) -> Path:
    if name == "npz":
        if data_dir is None:
            raise BadInput(
                "data set 'npz': no file given", hint="name the file itself: --data my.npz"
            )
        path = data_dir
    else:
        path = (data_dir or Path()) / name
    if not path.is_file():
        raise BadInput(f"data file {path} does not exist", hint="check --data and --data-dir")
    refuse_written(path)  # a model may remember it
    return path


def _read(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with open_plain(path) as stream:  # numpy leaves a file it opened itself open on errors
            return _arrays(path, stream)
    except UNREADABLE as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(
            f"{path}: not a readable .npz file ({first})", hint="the file is damaged or cut short"
        ) from error


def _arrays(path: Path, stream: BinaryIO) -> dict[str, npt.NDArray[Any]]:
    # No pickles: an object array could run code when it is read.
    loaded = np.load(stream, allow_pickle=False)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise BadInput(f"{path}: a single array, not an .npz archive", hint=HINT)
    with loaded as archive:
        missing = [key for key in KEYS if key not in archive.files]
        if missing:
            raise BadInput(f"{path}: lacks {', '.join(missing)}", hint=HINT)
        wanted = [*KEYS, *({"class_names"} & set(archive.files))]
        members = [m for m in archive.zip.infolist() if m.filename.removesuffix(".npy") in wanted]
        size = sum(m.file_size for m in members)
        if size > max(SMALL_BYTES, MAX_RATIO * path.stat().st_size):
            raise BadInput(
                f"{path}: its arrays take {size >> 20} MiB, which no images packed so small do",
                hint="if they are real, write the file without compression: numpy.savez",
            )
        if size > MAX_BYTES:
            raise BadInput(
                f"{path}: its arrays take more than {MAX_BYTES >> 30} GiB",
                hint="store images as uint8, or fewer of them",
            )
        arrays = {key: archive[key] for key in wanted}
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):  # numpy gives a damaged member's bytes
            raise BadInput(f"{path}: {key} is no array", hint=HINT)
    return arrays


def _split(path: Path, part: str, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> Split:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.dtype.kind not in "iu" or len(y) != len(x):
        raise BadInput(
            f"{path}: y_{part} is {y.dtype}{list(y.shape)} for {len(x)} images",
            hint="labels are one integer per image",
        )
    labels = y.astype(np.int64)
    return Split(_images(path, part, x), labels, np.arange(len(labels), dtype=np.int64))


def _images(path: Path, part: str, x: npt.NDArray[Any]) -> Images:
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4:
        raise BadInput(
            f"{path}: x_{part} has shape {x.shape}",
            hint="images are (N, H, W), (N, C, H, W) or (N, H, W, C)",
        )
    if x.dtype == np.uint8:
        return np.ascontiguousarray(x)
    if x.dtype.kind != "f":
        raise BadInput(
            f"{path}: x_{part} has type {x.dtype}", hint="images are uint8, or floats in [0, 1]"
        )
    low, high = float(x.min(initial=0)), float(x.max(initial=0))
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise BadInput(
            f"{path}: x_{part} has values from {low:g} to {high:g}",
            hint="scale float images to [0, 1], or store them as uint8",
        )
    return np.ascontiguousarray(x, dtype=np.float32)
