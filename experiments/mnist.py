"""MNIST: how much robust accuracy is left at 10, 30, 50, 100 and 200 times fewer parameters?

    SEPDEPLOY_DATA=DIR python -m experiments.mnist [--jobs 2]

Three seeds at two radii: dense, Kronecker nets with and without the condition term, low-rank nets
of the same sizes, dynamical low-rank training, and magnitude pruning to the smallest size. Every
net has the same recipe (PGD-7 adversarial training, one-cycle); only the structure differs.
Finished rows are kept in the work folder, and in ``results/mnist.json`` after every call.
"""

from __future__ import annotations

import sys
from typing import Any

from experiments.trainings import Row, main, recipe

BASE: dict[str, Any] = {"data": "mnist", "arch": "mlp", "objective": "pgd-at", "epochs": 3}
CONDITION, WEAKER, WEAKEST = 0.01, 0.003, 0.001
ATTACK_STEPS = 40
SEEDS = (0, 1, 2)
# At once, the large radius stops small nets from starting: it grows over two epochs.
RADII: dict[float, dict[str, Any]] = {
    0.1: {"eps": 0.1},
    0.3: {"eps": 0.3, "epochs": 5, "eps_warmup": 2},
}


def kron(side: int) -> dict[str, Any]:
    """A net of two Kronecker layers, side² wide, each of one term of two factors."""
    shapes = f"fc1=kron:28x28-{side}x{side},fc2=kron:{side}x{side}-{side}x{side}"
    return {"structure": shapes, "hidden": (side * side, side * side)}


def lowrank(width: int, rank: int) -> dict[str, Any]:
    """A net of two low-rank layers of one width and rank."""
    return {"structure": f"lowrank:{rank}", "hidden": (width, width)}


PRUNED = {"prune": "magnitude", "prune_scope": "network", "prune_start": 2}
# A net 1024 wide reaches 1/200 only if its classifier, which alone is larger, is pruned too.
JUDGED: dict[str, dict[str, Any]] = {
    "dense": {"structure": "dense", "hidden": (1024, 1024)},
    "kron-31x": kron(64),
    "kron-31x-condition": kron(64) | {"condition": CONDITION},
    "kron-103x": kron(34),
    "kron-103x-condition": kron(34) | {"condition": CONDITION},
    "kron-214x": kron(23),
    "kron-214x-condition": kron(23) | {"condition": CONDITION},
    "lowrank-218x": lowrank(128, 6),
    "pruned-213x": PRUNED | {"hidden": (256, 256), "sparsity": 0.97875},
    "pruned-214x-whole": PRUNED | {"sparsity": 0.99643, "prune_classifier": True},
}
MORE: dict[str, dict[str, Any]] = {
    "dlrt-17x": lowrank(1024, 25) | {"rank_tolerance": 0.05, "rank_max": 25},
    "kron-53x": kron(48),
    "lowrank-10x": lowrank(1024, 45),
    "lowrank-55x": lowrank(512, 12),
    "lowrank-109x": lowrank(256, 9),
}
MORE |= {
    f"kron-{size}-condition-{WEAKER}": kron(side) | {"condition": WEAKER}
    for size, side in (("103x", 34), ("31x", 64), ("214x", 23), ("53x", 48))
}
MORE |= {f"kron-103x-condition-{WEAKEST}": kron(34) | {"condition": WEAKEST}}
MORE |= {
    f"{name}-condition": MORE[name] | {"condition": CONDITION}
    for name in ("kron-53x", "lowrank-10x", "lowrank-109x", "dlrt-17x")
}
SLOW = {
    "pruned-98x": PRUNED | {"sparsity": 0.9964},
    "kron-12x": kron(104),
    "kron-12x-condition": kron(104) | {"condition": CONDITION},
    f"kron-12x-condition-{WEAKER}": kron(104) | {"condition": WEAKER},
}


def rows() -> list[Row]:
    """All rows, by importance."""
    return [
        Row(name, recipe(BASE | RADII[eps], seed=seed, **structure), ATTACK_STEPS)
        for structures in (JUDGED, MORE, SLOW)
        for eps in RADII
        for seed in SEEDS
        for name, structure in structures.items()
    ]


if __name__ == "__main__":
    sys.exit(main(rows(), "experiments.mnist", "mnist"))
