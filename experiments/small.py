"""MNIST: how small may a net be before it is less robust than the dense one?

    SEPDEPLOY_DATA=DIR python -m experiments.small [--jobs 2]

Every net has the same recipe: PGD-7 adversarial training at ε 0.1, eight epochs, the default
learning rate, which each tensor takes in proportion to its size. Kronecker nets from 31 to 1,007
times smaller, dense nets as small as they, and low-rank nets; three seeds. The rows of three
epochs at other learning rates tell what each structure's own best one is; nothing else was tuned,
and those are compared on held-out training images. PGD-40 and APGD-CE with APGD-T (``aa-fast``) are
asked about all test images, AutoAttack's four (``aa-standard``) about the first 1,000.
"""

from __future__ import annotations

import sys
from typing import Any

from experiments.trainings import Row, main, recipe

BASE: dict[str, Any] = {"data": "mnist", "arch": "mlp", "objective": "pgd-at", "eps": 0.1}
EPOCHS, SEARCHED = 8, 3
ATTACK_STEPS = 40
JUDGES = (("aa-fast", 10_000), ("aa-standard", 1_000))
SEEDS = (0, 1, 2)
RATES = (2e-3, 8e-3)  # beside the default 4e-3


def tapered(first: int, second: int) -> dict[str, Any]:
    """Two Kronecker layers, the second narrower, with biases that are sums; a dense head."""
    shapes = (f"28x28-{first}x{first}", f"{first}x{first}-{second}x{second}")
    return {"structure": ",".join(f"kron:{shape}+sumbias" for shape in shapes)}


NETS: dict[str, dict[str, Any]] = {
    "dense": {"hidden": (1024, 1024)},
    "kron-103x": tapered(64, 32),
    "kron-213x": tapered(48, 20),
    "kron-340x": tapered(32, 16),
    "kron-31x": {"structure": "kron:28x28-64x64,kron:64x64-64x64"},
    "kron-541x": tapered(24, 12),
    "kron-1007x": tapered(16, 8),
    "dense-104x": {"hidden": (22, 22)},
    "dense-210x": {"hidden": (11, 11)},
    "lowrank-17x": {"structure": "lowrank:25", "hidden": (1024, 1024)},
}


def rows() -> list[Row]:
    """All rows, by importance."""
    judged = [
        Row(name, recipe(BASE, seed=seed, epochs=EPOCHS, **net), ATTACK_STEPS, JUDGES)
        for seed in SEEDS
        for name, net in NETS.items()
    ]
    searched = [
        Row(name, recipe(BASE, seed=0, epochs=SEARCHED, lr=rate, **net), ATTACK_STEPS)
        for name, net in NETS.items()
        for rate in (*RATES, 4e-3)
    ]
    return judged + searched


if __name__ == "__main__":
    sys.exit(main(rows(), "experiments.small", "small"))
