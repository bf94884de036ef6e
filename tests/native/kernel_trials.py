"""Random layers in one kernel set against dense matrices: ``kernel_trials.py LIBRARY SEED``."""

import math
import sys

import numpy as np

from sepdeploy.runtimes.native.selftest import Direct, dense_kron

TRIALS = 150
SIDES = {1: 200, 2: 70, 3: 20, 4: 9}
SAMPLES = (1, 2, 3, 7, 32, 40)


def kron_trial(direct, rng):
    d, terms = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    sides = rng.integers(1, SIDES[d], (2, d))
    if math.prod(sides.ravel().tolist()) > 2_000_000:
        return 0.0
    factors = [rng.standard_normal((terms, o, i), dtype=np.float32) for i, o in sides.T]
    matrix = dense_kron(factors)
    bias = rng.standard_normal(len(matrix), dtype=np.float32) * rng.integers(2)
    x = rng.standard_normal((int(rng.choice(SAMPLES)), matrix.shape[1]), dtype=np.float32)
    return error(direct.kron(factors, bias.astype(np.float32), x), x @ matrix.T + bias)


def lowrank_trial(direct, rng):
    inputs, outputs, rank = (int(n) for n in rng.integers(1, (300, 300, 60)))
    u = rng.standard_normal((inputs, rank), dtype=np.float32)
    v = rng.standard_normal((outputs, rank), dtype=np.float32)
    bias = rng.standard_normal(outputs, dtype=np.float32)
    x = rng.standard_normal((int(rng.choice(SAMPLES)), inputs), dtype=np.float32)
    return error(direct.lowrank(u, v, bias, x), (x.astype(np.float64) @ u) @ v.T + bias)


def deep_trial(direct, rng):
    """Products that run in blocks, weights read once for many samples."""
    terms = int(rng.integers(1, 3))
    i, o = ((3, 900), (5, 70)) if rng.integers(2) else ((900, 3), (70, 4))
    factors = [
        rng.standard_normal((terms, b, a), dtype=np.float32) for a, b in zip(i, o, strict=True)
    ]
    matrix = dense_kron(factors)
    bias = rng.standard_normal(len(matrix), dtype=np.float32)
    x = rng.standard_normal((int(rng.choice((1, 33, 70))), matrix.shape[1]), dtype=np.float32)
    rank = int(rng.choice((6, 30)))
    u = rng.standard_normal((matrix.shape[1], rank), dtype=np.float32)
    v = rng.standard_normal((len(matrix), rank), dtype=np.float32)
    return max(
        error(direct.kron(factors, bias, x), x @ matrix.T + bias),
        error(direct.lowrank(u, v, bias, x), (x.astype(np.float64) @ u) @ v.T + bias),
    )


def error(found, wanted):
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def main():
    direct, rng = Direct(sys.argv[1]), np.random.default_rng(int(sys.argv[2]))
    errors = [trial(direct, rng) for trial in (kron_trial, lowrank_trial) for _ in range(TRIALS)]
    errors += [deep_trial(direct, rng) for _ in range(12)]
    print(direct.kernel_set, float(np.max(errors)))  # a NaN anywhere is the maximum


if __name__ == "__main__":
    main()
