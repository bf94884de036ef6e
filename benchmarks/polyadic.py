"""Our alternating least squares against TensorLy's on trained kernels: error and time.

``python -m benchmarks.polyadic A.onnx B.onnx`` takes the ten largest k×k kernels of the files (any
exported nets), unfolds each to o × c × k² and decomposes it at a quarter of its weights, one
thread. TensorLy is no dependency: install it beside to run this.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import geometric_mean

import numpy as np
import onnx
from onnx import numpy_helper

from sepdeploy.structures.cp import decompose

KERNELS, SHARE, SWEEPS = 10, 0.25, 300

Decompose = Callable[[np.ndarray, int], list[np.ndarray]]


def kernels(paths: list[Path]) -> list[np.ndarray]:
    """The largest k×k kernels of dense convolutions, in double precision."""
    found = []
    for path in paths:
        graph = onnx.load(path).graph
        weights = {w.name: w for w in graph.initializer}
        weights |= {n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant"}
        for node in graph.node:
            if node.op_type == "Conv" and node.input[1] in weights:
                kernel = numpy_helper.to_array(weights[node.input[1]])
                if kernel.ndim == 4 and kernel[0, 0].size > 1 and min(kernel.shape[:2]) > 1:
                    found.append(kernel.reshape(*kernel.shape[:2], -1).astype(np.float64))
    return sorted(found, key=lambda k: -k.size)[:KERNELS]


def rivals() -> dict[str, Decompose]:
    """Both ways to decompose, by name."""
    from tensorly.decomposition import parafac

    def theirs(tensor: np.ndarray, rank: int) -> list[np.ndarray]:
        found = parafac(tensor, rank, n_iter_max=SWEEPS, init="svd", tol=1e-8, random_state=0)
        return [found.factors[0] * found.weights, *found.factors[1:]]

    return {"own": lambda t, r: decompose(t, r, SWEEPS)[0], "tensorly": theirs}


def main() -> None:
    """Print a line per kernel and the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    times: dict[str, list[float]] = {}
    errors: dict[str, list[float]] = {}
    for tensor in kernels(parser.parse_args().files):
        rank = max(1, math.floor(SHARE * tensor.size / sum(tensor.shape)))
        line = f"{'x'.join(map(str, tensor.shape)):>14} rank {rank:4}"
        for name, solve in rivals().items():
            start = time.perf_counter()
            a, b, d = solve(tensor, rank)
            took = time.perf_counter() - start
            lost = np.linalg.norm(tensor - np.einsum("or,cr,tr->oct", a, b, d))
            times.setdefault(name, []).append(took)
            errors.setdefault(name, []).append(float(lost / np.linalg.norm(tensor)))
            line += f"  {name} {errors[name][-1]:.4f} in {took:6.2f} s"
        print(line, flush=True)
    for name in times:
        print(
            f"{name}: mean error {np.mean(errors[name]):.4f}, {geometric_mean(times[name]):.2f} s"
        )


if __name__ == "__main__":
    main()
