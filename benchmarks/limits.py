"""How far is a structured layer from what it could at best be, and the ratio to dense with it?

``python -m benchmarks.limits`` times, in turns in one process and through ``Session.run``: a
structured 4096→4096 layer as standard ops and as our op, its dense form, and a graph of a single
cheap operator on as many values, which is what any graph costs in this runtime (call, input copied
in, logits copied out). A large product in ONNX Runtime tells the multiplications per second that a
core does. The bound of a layer is the graph of one operator plus its multiplications at that speed;
the ratio that a perfect form would reach is dense over that bound.
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
from benchmarks.native import write_fused
from sepdeploy import runtimes
from sepdeploy.measure import host_facts
from sepdeploy.reports.tables import Table, markdown
from sepdeploy.structures import DenseSpec, KronSpec, LowRankSpec, Spec

SIDE = 4096
LAYERS: dict[str, Spec] = {
    "Kronecker 64×64 ⊗ 64×64": KronSpec((64, 64), (64, 64)),
    "low rank 10": LowRankSpec(SIDE, SIDE, 10),
}
PRODUCT = (192, 512)  # batch and width of the probe's product
QUIET = 5  # percentile of the rounds: other programs only ever slow something down


@dataclass(frozen=True)
class Limit:
    """One layer in one runtime; microseconds."""

    runtime: str
    layer: str
    layer_us: float
    own_us: float
    dense_us: float
    floor_us: float
    multiply_us: float

    @property
    def bound_us(self) -> float:
        """The least time of a perfect form."""
        return self.floor_us + self.multiply_us

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
    paths: dict[str, Path] = {}
    for index, (name, spec) in enumerate(LAYERS.items()):
        paths[name] = folder / f"{index}.{format}"
        paths[f"own {name}"] = folder / f"own{index}.{format}"
        write_rule(spec, paths[name])
        write_fused(spec, paths[f"own {name}"])
    paths |= {name: folder / f"{name}.{format}" for name in ("dense", "floor")}
    write_dense(SIDE, SIDE, paths["dense"])
    write_floor(paths["floor"])
    sample = np.random.default_rng(0).random((1, SIDE), dtype=np.float32)
    sessions = {name: runtimes.open(path, runtime) for name, path in paths.items()}
    runs: dict[str, Any] = {name: partial(s.run, sample) for name, s in sessions.items()}
    batch, width = PRODUCT
    write_dense(width, width, folder / "product.onnx")
    product = runtimes.open(folder / "product.onnx", "onnxruntime")
    matrix = np.random.default_rng(1).random((batch, width), dtype=np.float32)
    runs["multiply"] = partial(product.run, matrix)
    found = interleave(runs, rounds, blocks)
    us = {name: float(np.percentile(values, QUIET)) * 1e6 for name, values in found.items()}
    macs_per_us = batch * width**2 / us["multiply"]
    return [
        Limit(
            runtime,
            name,
            us[name],
            us[f"own {name}"],
            us["dense"],
            us["floor"],
            spec.macs / macs_per_us,
        )
        for name, spec in LAYERS.items()
    ]


def table(limits: list[Limit]) -> str:
    """Return the limits as a Markdown table."""
    heads = ("layer", "runtime", "µs", "our op", "one-operator graph", "multiplying", "bound")
    heads = (*heads, "dense µs (GB/s)", "ratio", "our op", "at the bound")
    drawn = Table(heads, range(2, 11))
    for m in limits:
        speed = SIDE * SIDE * 4 / m.dense_us / 1000
        times = (m.layer_us, m.own_us, m.floor_us, m.multiply_us, m.bound_us)
        ratios = (m.ratio, m.dense_us / m.own_us, m.best_ratio)
        dense = f"{m.dense_us:.0f} ({speed:.0f})"
        own = (*(f"{t:.2f}" for t in times), dense, *(f"{r:.0f}×" for r in ratios))
        drawn.add(m.layer, m.runtime, *own)
    return "\n".join(markdown(drawn))


NOTES = """A perfect form costs what a graph of one operator costs in this runtime (the call, 16 KiB
copied in and out) and its multiplications at the speed of a large product in ONNX Runtime. Ratios
are against the dense layer, which streams 64 MiB: they rise and fall with the memory's bandwidth
that other programs leave. Our op runs in native kernels where they are built."""


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
