"""The 1,797 handwritten 8×8 digits that ship inside scikit-learn: no file, no network."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sepdeploy.data.dataset import Dataset, Split, make_dataset
from sepdeploy.errors import BadInput, Missing

TEST_PER_CLASS = 34
STRIDE = 5  # the rarest class has 174 images, so every fifth gives at least 34


def load_digits(name: str, data_dir: Path | None) -> Dataset:
    """Return the digits as uint8 images (N, 1, 8, 8).

    The test split is fixed and balanced: of each class every fifth image, 34 of them, so it
    spreads over all writers and depends on no random number generator.

    Raises:
        BadInput: A data folder was given.
        Missing: scikit-learn is not installed.
    """
    if data_dir is not None:
        raise BadInput(f"data set '{name}' reads no folder", hint="leave --data-dir out")
    try:
        from sklearn.datasets import load_digits as load_bundled
    except ImportError as error:
        raise Missing(
            "the digits data set ships in scikit-learn, which is not installed",
            hint="pip install 'sepdeploy[train]'",
        ) from error
    bundled = load_bundled()
    images = np.rint(bundled.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bundled.target.astype(np.int64)
    ids = np.arange(len(labels), dtype=np.int64)
    test = np.concatenate(
        [np.flatnonzero(labels == c)[::STRIDE][:TEST_PER_CLASS] for c in range(10)]
    )
    in_test = np.isin(ids, test)
    whole = Split(images, labels, ids)
    return make_dataset(
        name,
        whole.subset(ids[~in_test]),
        whole.subset(ids[in_test]),
        tuple(str(c) for c in range(10)),
    )
