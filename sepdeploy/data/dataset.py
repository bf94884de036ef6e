"""The records of a data set: images, labels, stable ids, and how to split them.

Images are stored as uint8 (0..255) or float32 (already in [0, 1]), always (N, C, H, W), and become
float32 in [0, 1] only when a batch is taken.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sepdeploy.errors import DATA_SET, BadInput
from sepdeploy.records import InputSpec

Images = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
MIN_STD = 1e-3  # a constant channel is left unscaled instead of being blown up


@dataclass(frozen=True)
class Split:
    """A part of a data set.

    Attributes:
        images: (N, C, H, W), uint8 in 0..255 or float32 in [0, 1].
        labels: (N,) int64, class numbers from 0.
        ids: (N,) int64, a number per image that stays the same in every sub-split, so that
            whatever is random about one image (an attack's start) follows that image.
    """

    images: Images
    labels: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: npt.NDArray[np.int64] | slice | list[int]) -> npt.NDArray[np.float32]:
        """Return the images at ``index`` as float32 in [0, 1], shape (n, C, H, W)."""
        images: npt.NDArray[Any] = self.images[index]
        if images.dtype == np.uint8:
            return np.divide(images, np.float32(255), dtype=np.float32)
        return images.astype(np.float32, copy=True)

    def subset(self, index: npt.NDArray[np.int64]) -> Split:
        """Return the samples at ``index``, in that order."""
        return Split(self.images[index], self.labels[index], self.ids[index])

    def take(self, n: int, seed: int = 0) -> Split:
        """Return ``n`` samples drawn without replacement (all of them where n >= len).

        The same seed draws the same samples, in the order of the file; a smaller n draws a
        subset of what a larger n draws.
        """
        if n >= len(self):
            return self
        if n < 1:
            raise BadInput(f"cannot take {n} samples", hint="ask for at least one")
        return self.subset(np.sort(np.random.default_rng(seed).permutation(len(self))[:n]))

    def sha256(self) -> str:
        """Return a digest of the images and labels."""
        digest = hashlib.sha256(repr((self.images.shape, str(self.images.dtype))).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Dataset:
    """A named data set with its fixed training and test split.

    ``input`` carries the shape, the class names and the channel mean and standard deviation of
    the training images, which the model applies inside itself. ``notes`` says what the files
    hold beside: whatever was passed over, and why.
    """

    name: str
    train: Split
    test: Split
    input: InputSpec
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.input.class_names)


def make_dataset(name: str, train: Split, test: Split, class_names: tuple[str, ...]) -> Dataset:
    """Check the two splits against each other and derive the input description.

    Raises:
        BadInput: Empty split, shapes that differ, or labels outside the classes.
    """
    for part, split in (("training", train), ("test", test)):
        if not len(split):
            raise BadInput(f"data set '{name}' has no {part} images", hint=DATA_SET)
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= len(class_names):
            raise BadInput(
                f"data set '{name}': {part} labels run from {low} to {high}, "
                f"but there are {len(class_names)} classes",
                hint="number the classes from 0",
            )
    if train.images.shape[1:] != test.images.shape[1:]:
        raise BadInput(
            f"data set '{name}': training images are {train.images.shape[1:]}, "
            f"test images {test.images.shape[1:]} (channels, height, width)",
            hint="bring all images to one size",
        )
    mean, std = channel_statistics(train)
    shape = tuple(int(n) for n in train.images.shape[1:])
    return Dataset(name, train, test, InputSpec(shape, mean, std, class_names))


def channel_statistics(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of the images in [0, 1], to four digits.

    Summed in integers or float64 over slices, so the result does not depend on the machine.
    """
    channels = split.images.shape[1]
    total, squares = np.zeros(channels), np.zeros(channels)
    for start in range(0, len(split), 1024):
        part = split.images[start : start + 1024].astype(np.float64)
        total += part.sum(axis=(0, 2, 3))
        squares += np.square(part).sum(axis=(0, 2, 3))
    count = split.images.size / channels
    scale = 255.0 if split.images.dtype == np.uint8 else 1.0
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0)) / scale
    return (
        tuple(round(float(m), 4) for m in mean / scale),
        tuple(round(float(s), 4) if s > MIN_STD else 1.0 for s in std),
    )


def split_validation(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Hold out a class-balanced part of a split.

    Args:
        split: Usually the training split.
        fraction: Share to hold out, 0 < fraction < 1; at least one image per class that has two.
        seed: Which images; the same seed holds out the same ones.

    Returns:
        The rest and the held-out part, both in the order of the file.

    Raises:
        BadInput: A fraction outside (0, 1), or one that leaves a part empty.
    """
    if not 0 < fraction < 1:
        raise BadInput(f"validation fraction {fraction} is not between 0 and 1", hint="try 0.1")
    rng = np.random.default_rng(seed)
    held = np.zeros(len(split), dtype=bool)
    for label in np.unique(split.labels):
        members = rng.permutation(np.flatnonzero(split.labels == label))
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held[members[:count]] = True
    if not held.any():
        raise BadInput(
            f"holding out {fraction} of {len(split)} images leaves no validation image",
            hint="every class needs at least two training images",
        )
    return split.subset(np.flatnonzero(~held)), split.subset(np.flatnonzero(held))
