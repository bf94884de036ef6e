"""CIFAR-10, scaled down to a CPU: a small CNN with a large head, 10,000 training images.

    SEPDEPLOY_DATA=DIR python -m experiments.cifar [--jobs 2]

``DIR`` holds CIFAR-10 as an image folder (``cifar10/train/<class>/*.png``), or as archives
``cifar10*.zip`` of one. PGD-10 adversarial training at ε = 8/255 as in the full-size recipe, judged
under PGD-20 on 2,000 test images. Says how much of the dense net's robust accuracy the factored
heads keep, not how robust a CIFAR-10 net can be.
"""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from experiments.trainings import WORK, Row, main, recipe
from sepdeploy.data import load
from sepdeploy.files import atomic_path

IMAGES = {"train": 10_000, "test": 2_000}
SUBSET = WORK / "cifar10-subset.npz"
BASE: dict[str, Any] = {
    "data": str(SUBSET),
    "arch": "experiments.cifar_net:small_cnn",
    "objective": "pgd-at",
    "eps": 8 / 255,
    "steps": 10,
    "augment": "flip",
    "lr": 2e-3,
}
ATTACK_STEPS = 20
SEEDS = (0, 1, 2)
EPOCHS = (6, 20)  # the dense net is at its best after few, factored ones gain from more
WIDE = {"structure": "fc1=kron:64x64-64x64,fc2=kron:64x64-64x64", "hidden": (4096, 4096)}
TERMS = {"structure": "fc1=kron:64x64-32x32*8,fc2=kron:32x32-32x32*8"}
# Widths of Kronecker heads are free: the dense head stays 1024 wide.
STRUCTURES: dict[str, dict[str, Any]] = {
    "dense": {},
    "lowrank-64": {"structure": "fc1=lowrank:64,fc2=lowrank:64"},
    "dlrt-40": {
        "structure": "fc1=lowrank:40,fc2=lowrank:40",
        "rank_tolerance": 0.05,
        "rank_max": 40,
        "rank_frozen": 10,
    },
    "kron-8-terms": TERMS,
    "kron-4096-wide": WIDE,
    "lowrank-24": {"structure": "fc1=lowrank:24,fc2=lowrank:24"},
    "kron-8-terms-condition": TERMS | {"condition": 0.01},
}


def write_subset(source: Path, target: Path) -> None:
    """Write a fixed draw of images as one ``.npz`` file."""
    if target.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        root = source / "cifar10"
        if not root.is_dir():
            root = Path(folder)
            for archive in sorted(source.glob("cifar10*.zip")):
                with zipfile.ZipFile(archive) as opened:
                    opened.extractall(root)
        data = load("image-folder", root)
    parts = {"train": data.train, "test": data.test}
    arrays = {}
    for name, count in IMAGES.items():
        part = parts[name].take(count, seed=0)
        arrays |= {f"x_{name}": np.asarray(part.images), f"y_{name}": part.labels}
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def rows() -> list[Row]:
    """All rows."""
    return [
        Row(name, recipe(BASE, seed=seed, epochs=epochs, **structure), ATTACK_STEPS)
        for seed in SEEDS
        for epochs in EPOCHS
        for name, structure in STRUCTURES.items()
        if epochs > structure.get("rank_frozen", 0)
    ]


if __name__ == "__main__":
    if "--only" not in sys.argv:
        write_subset(Path(os.environ.get("SEPDEPLOY_DATA", ".")), SUBSET)
    sys.exit(main(rows(), "experiments.cifar", "cifar"))
