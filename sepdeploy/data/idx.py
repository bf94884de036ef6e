"""MNIST-like data sets in the IDX format, plain or gzip-compressed.

IDX: two zero bytes, a type code (0x08 = unsigned byte), the number of dimensions, each dimension
as a big-endian 32-bit integer, then the values in row-major order.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from sepdeploy.data.dataset import Dataset, Split, make_dataset
from sepdeploy.data.folders import find_folder
from sepdeploy.errors import BadInput
from sepdeploy.files import open_plain

UNSIGNED_BYTE = 0x08
MAX_BYTES = 1 << 31  # far above any data set of this format; guards against a forged header
PARTS = {"train": "train", "test": "t10k"}
DIGITS = tuple(str(c) for c in range(10))
FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
CLASS_NAMES = {"mnist": DIGITS, "fashion-mnist": FASHION}


def load_idx(name: str, data_dir: Path | None) -> Dataset:
    """Load MNIST or Fashion-MNIST from its four original files.

    Args:
        name: "mnist" or "fashion-mnist".
        data_dir: Folder with the files, or with a subfolder of that name; None = SEPDEPLOY_DATA.

    Raises:
        BadInput: Folder or file missing, corrupt or truncated.
    """
    folder = find_folder(name, data_dir)
    splits = {part: _split(folder, prefix) for part, prefix in PARTS.items()}
    return make_dataset(name, splits["train"], splits["test"], CLASS_NAMES[name])


def _split(folder: Path, prefix: str) -> Split:
    images = read_idx(_find(folder, f"{prefix}-images-idx3-ubyte"), dimensions=3)
    path = _find(folder, f"{prefix}-labels-idx1-ubyte")
    labels = read_idx(path, dimensions=1)
    if len(images) != len(labels):
        raise BadInput(
            f"{path}: {len(labels)} labels for {len(images)} images",
            hint="the label and the image file belong to different data sets",
        )
    return Split(images[:, None], labels.astype(np.int64), np.arange(len(labels), dtype=np.int64))


def _find(folder: Path, stem: str) -> Path:
    for candidate in (stem, f"{stem}.gz", stem.replace("-idx", ".idx")):
        if (folder / candidate).is_file():
            return folder / candidate
    raise BadInput(
        f"{folder}: neither {stem} nor {stem}.gz is there",
        hint="give the folder of the four IDX files with --data-dir",
    )


def read_idx(path: Path, *, dimensions: int) -> npt.NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes.

    Args:
        path: The file; compressed if its first two bytes say so, whatever its name.
        dimensions: How many dimensions it must have.

    Raises:
        BadInput: Unreadable, not IDX, wrong type or dimensions, too short or too long.
    """
    with _opened(path) as stream:
        head = stream.read(4 + 4 * dimensions)
        shape = _shape(path, head, dimensions)
        promised = math.prod(shape)
        # A compressed file may hold a thousand times its size: no more is read than it promises.
        body = stream.read(promised + 1) if promised <= MAX_BYTES else b""
    if len(body) != promised:
        held = "more" if len(body) > promised else "fewer" if promised > MAX_BYTES else len(body)
        raise BadInput(
            f"{path}: the header promises {promised} values {shape}, the file holds {held}",
            hint="the file is truncated or damaged; fetch it again",
        )
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def _shape(path: Path, head: bytes, dimensions: int) -> tuple[int, ...]:
    if len(head) < 4 + 4 * dimensions:
        raise BadInput(f"{path}: too short for an IDX file", hint="fetch the file again")
    zeros, code, found = struct.unpack(">HBB", head[:4])
    if zeros or code != UNSIGNED_BYTE or found != dimensions:
        raise BadInput(
            f"{path}: not an IDX file of unsigned bytes with {dimensions} dimensions "
            f"(starts with {head[:4].hex()})",
            hint="fetch the file again, or check that image and label files are not swapped",
        )
    shape: tuple[int, ...] = struct.unpack(f">{dimensions}I", head[4:])
    return shape


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    try:
        with open_plain(path) as probe:
            compressed = probe.read(2) == b"\x1f\x8b"
        with gzip.open(path) if compressed else open_plain(path) as stream:
            yield stream
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(
            f"{path}: cannot be read ({error})", hint="the file is damaged; fetch it again"
        ) from error
    except MemoryError as error:
        raise BadInput(f"{path}: does not fit in memory", hint="fetch the file again") from error
