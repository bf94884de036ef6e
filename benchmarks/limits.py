"""How far is a structured layer from what it could at best be, and the ratio to dense with it?

``python -m benchmarks.limits`` times, in turns in one process and through ``Session.run``: a
structured 4096→4096 layer, its dense form, and a graph of a single cheap operator on as many
values, which is what any graph costs in this runtime (call, input copied in, logits copied out).
Beside them two probes: a large matrix product of numpy (the multiplications per second that a core
can do) and reading as many bytes as the layer's weights have. The bound of a layer is the graph of
one operator plus the slower of multiplying and reading; the ratio that a perfect form would reach
is dense over that bound.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from benchmarks import page
from benchmarks.candidates import model_of, write, write_dense, write_rule
from benchmarks.kron import interleave
from sepdeploy import runtimes
from sepdeploy.measure import host_facts
from sepdeploy.structures import DenseSpec, KronSpec, LowRankSpec, Spec

SIDE = 4096
LAYERS: dict[str, Spec] = {
    "Kronecker 64×64 ⊗ 64×64": KronSpec((64, 64), (64, 64)),
    "low rank 10": LowRankSpec(SIDE, SIDE, 10),
}
PRODUCT = 160  # side of the probe's matrices: they stay in the nearest caches
QUIET = 25  # percentile of the rounds: other programs only ever slow something down


@dataclass(frozen=True)
class Limit:
    """One layer in one runtime; microseconds."""

    runtime: str
    layer: str
    layer_us: float
    dense_us: float
    floor_us: float
    multiply_us: float
    read_us: float

    @property
    def bound_us(self) -> float:
        """The least time of a perfect form."""
        return self.floor_us + max(self.multiply_us, self.read_us)

    @property
    def ratio(self) -> float:
        """How many times faster than dense the layer is."""
        return self.dense_us / self.layer_us

    @property
    def best_ratio(self) -> float:
        """How many times faster a perfect form would be."""
        return self.dense_us / self.bound_us


def write_floor(path: Path) -> None:
    """Write a graph of one cheap operator on as many values as the layers have."""
    node = helper.make_node("Relu", ["input"], ["logits"], "floor")
    write(model_of(DenseSpec(SIDE, SIDE), [node], []), path)


def measure(runtime: str, folder: Path, rounds: int, blocks: int) -> list[Limit]:
    """Measure every layer in one runtime."""
    format = runtimes.RUNTIMES[runtime].format
    paths = {name: folder / f"{index}.{format}" for index, name in enumerate(LAYERS)}
    for name, path in paths.items():
        write_rule(LAYERS[name], path)
    paths |= {name: folder / f"{name}.{format}" for name in ("dense", "floor")}
    write_dense(SIDE, SIDE, paths["dense"])
    write_floor(paths["floor"])
    sample = np.random.default_rng(0).random((1, SIDE), dtype=np.float32)
    matrix = np.random.default_rng(1).random((PRODUCT, PRODUCT), dtype=np.float32)
    sessions = {name: runtimes.open(path, runtime) for name, path in paths.items()}
    runs: dict[str, Any] = {name: partial(s.run, sample) for name, s in sessions.items()}
    runs["multiply"] = partial(np.matmul, matrix, matrix)
    for name, spec in LAYERS.items():
        weights = np.ones(spec.weight_params, dtype=np.float32)
        runs[f"read {name}"] = partial(np.dot, weights, weights)
    found = interleave(runs, rounds, blocks)
    us = {name: float(np.percentile(values, QUIET)) * 1e6 for name, values in found.items()}
    macs_per_us = PRODUCT**3 / us["multiply"]
    return [
        Limit(
            runtime,
            name,
            us[name],
            us["dense"],
            us["floor"],
            spec.macs / macs_per_us,
            us[f"read {name}"],
        )
        for name, spec in LAYERS.items()
    ]


def table(limits: list[Limit]) -> str:
    """Return the limits as a Markdown table."""
    lines = [
        "| layer | runtime | µs | one-operator graph | multiplying | reading weights | bound "
        "| dense µs (GB/s) | ratio | ratio at the bound |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for m in limits:
        speed = SIDE * SIDE * 4 / m.dense_us / 1000
        lines.append(
            f"| {m.layer} | {m.runtime} | {m.layer_us:.2f} | {m.floor_us:.2f} "
            f"| {m.multiply_us:.2f} | {m.read_us:.2f} | {m.bound_us:.2f} "
            f"| {m.dense_us:.0f} ({speed:.0f}) | {m.ratio:.0f}× | {m.best_ratio:.0f}× |"
        )
    return "\n".join(lines)


NOTES = """A perfect form costs what a graph of one operator costs in this runtime (the call, 16 KiB
copied in and out) and the slower of its multiplications at the core's measured speed (a large
product of numpy) and reading its weights once (a dot product over as many). Ratios are against the
dense layer, which streams 64 MiB: they rise and fall with the machine's memory bandwidth."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--blocks", type=int, default=3, help="per round")
    parser.add_argument("--runtime", choices=[*runtimes.RUNTIMES], action="append")
    parser.add_argument("--write", type=Path, nargs="?", const=page.PAGE)
    given = parser.parse_args(arguments)
    facts, limits = host_facts(), []
    for runtime in given.runtime or runtimes.versions():
        with tempfile.TemporaryDirectory(prefix="sepdeploy-") as folder:
            limits += measure(runtime, Path(folder), given.rounds, given.blocks)
    print(table(limits))
    if given.write is not None:
        text = f"{NOTES}\n\n{table(limits)}"
        page.put("limits", text, "python -m benchmarks.limits --write", facts, given.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
