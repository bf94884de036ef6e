"""How much faster is a Kronecker layer than the dense layer it stands for?

``python -m benchmarks.kron`` writes a 4096→4096 Kronecker layer (two 64×64 factors) and its dense
form with the product's exporters, opens both with ``runtimes.open`` and times ``Session.run``
(input copied in, logits copied out) in turns, batch 1, one thread. Beside it stands how far the
dense layer is from its memory bound, so that the baseline is seen to be fair: reading its weights
once at the bandwidth probed in the same rounds.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from benchmarks import page
from sepdeploy import runtimes
from sepdeploy.exporters.dense import dense_reference
from sepdeploy.exporters.domain import DOMAIN
from sepdeploy.exporters.entry import make_entry, parse_entry
from sepdeploy.exporters.onnx_file.write import write_onnx
from sepdeploy.exporters.plan import plan
from sepdeploy.exporters.tflite_file.write import write_tflite
from sepdeploy.measure import host_facts
from sepdeploy.records import InputSpec, Kind, LayerRecord
from sepdeploy.structures import KronSpec

BARS = {"onnxruntime": 150.0, "litert": 200.0}
UNFAIR = 1.5  # a dense layer this far from its memory bound was held up by something else
BLOCK_S = 0.0005  # a timed block, short beside a scheduler's time slice
WARM_RUNS = 2  # before a block: the others have emptied the caches
BLOCKS = 60  # a round is the median of so many


def kron_model(spec: KronSpec) -> ModelProto:
    """Return the canonical graph of one Kronecker layer without a bias.

    Its input keeps the modes, (N, *in_shape), as the input of a network's first layer does.
    """
    rng = np.random.default_rng(0)
    factors = {
        f"layer.factors.{i}": rng.standard_normal(shape, dtype=np.float32) / math.sqrt(shape[-1])
        for i, shape in enumerate(spec.factor_shapes)
    }
    weights: dict[str, NDArray[Any]] = factors | {
        "layer.bias": np.zeros(spec.out_features, dtype=np.float32)
    }
    flat = helper.make_node("Reshape", ["input", "layer/shape"], ["layer/x"], "layer/Reshape")
    node = helper.make_node(
        "KronLinear",
        ["layer/x", *weights],
        ["logits"],
        name="layer",
        domain=DOMAIN,
        in_shape=list(spec.in_shape),
        out_shape=list(spec.out_shape),
        terms=spec.terms,
    )
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
        for name, shape in (("input", spec.in_shape), ("logits", (spec.out_features,)))
    ]
    weights["layer/shape"] = np.array([-1, spec.in_features], dtype=np.int64)
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph([flat, node], "kron", infos[:1], infos[1:], tensors)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def write_pair(spec: KronSpec, format: str, folder: Path) -> dict[str, Path]:
    """Write the layer and its dense form; return their paths as "kron" and "dense"."""
    model = kron_model(spec)
    record = LayerRecord(
        "layer",
        "kron",
        spec.factor_shapes,
        spec.params(bias=True),
        spec.dense_params(bias=True),
        spec.macs,
        spec.dense_macs,
        spec.to_json(),
    )
    entry = make_entry(model, InputSpec(spec.in_shape), (record,))
    dense = dense_reference(parse_entry(entry.encode(), where="benchmark"))
    paths = {}
    for name, graph in (("kron", model), ("dense", dense)):
        paths[name] = folder / f"{name}.{format}"
        if format == "onnx":
            write_onnx(graph, paths[name], choices=plan(graph, "onnx"))
        else:
            target = "tflite-runtime-2.14"  # operator versions that both runtimes accept
            choices = plan(graph, "tflite")
            write_tflite(graph, paths[name], entry=None, runtime=target, choices=choices)
    return paths


def time_block(run: Callable[[], object]) -> Callable[[], float]:
    """Return a function that gives the seconds per run, over a block of about ``BLOCK_S``."""
    single = []
    for _ in range(5):
        start = time.perf_counter()
        run()
        single.append(time.perf_counter() - start)
    repeats = range(max(1, round(BLOCK_S / max(min(single), 1e-7))))

    def block() -> float:
        start = time.perf_counter_ns()
        for _ in repeats:
            run()
        return (time.perf_counter_ns() - start) / len(repeats) / 1e9

    return block


def interleave(
    runs: dict[str, Callable[[], object]], rounds: int, blocks: int = BLOCKS
) -> dict[str, list[float]]:
    """Time several callables in turns; return the median seconds per run of every round."""
    for run in runs.values():
        for _ in range(20):
            run()
    timers = {name: time_block(run) for name, run in runs.items()}
    medians: dict[str, list[float]] = {name: [] for name in runs}
    gc.disable()
    try:
        for _ in range(rounds):
            samples: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(blocks):
                for name, timer in timers.items():
                    for _ in range(WARM_RUNS):
                        runs[name]()
                    samples[name].append(timer())
            for name, values in samples.items():
                medians[name].append(float(np.median(values)))
    finally:
        gc.enable()
    return medians


def bench_runtime(spec: KronSpec, name: str, rounds: int, batch: int) -> dict[str, Any]:
    """Return the result of one runtime: medians, ratios per round, distance from the bound."""
    data: NDArray[np.float32] = np.random.default_rng(1).random(
        (batch, *spec.in_shape), dtype=np.float32
    )
    weights = np.ones(spec.in_features * spec.out_features, dtype=np.float32)
    with tempfile.TemporaryDirectory(prefix="sepdeploy-") as folder:
        paths = write_pair(spec, runtimes.RUNTIMES[name].format, Path(folder))
        kron, dense = (runtimes.open(paths[which], name) for which in ("kron", "dense"))
        with kron, dense:
            found = interleave(
                {
                    "kron": partial(kron.run, data),
                    "dense": partial(dense.run, data),
                    "read": partial(np.dot, weights, weights),
                },
                rounds,
            )
            version = kron.runtime.version
    ratios = [d / k for d, k in zip(found["dense"], found["kron"], strict=True)]
    seconds = {which: float(np.median(values)) for which, values in found.items()}
    bar = BARS.get(name) if batch == 1 else None
    return {
        "runtime": name,
        "version": version,
        "kind": Kind.HOST.value,
        "batch": batch,
        "threads": 1,
        "rounds": rounds,
        "kron_us": seconds["kron"] * 1e6,
        "dense_us": seconds["dense"] * 1e6,
        "ratio": seconds["dense"] / seconds["kron"],
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "bar": bar,
        "read_gb_s": weights.nbytes / seconds["read"] / 1e9,
        "dense_gb_s": weights.nbytes / seconds["dense"] / 1e9,
        "dense_over_bound": seconds["dense"] / seconds["read"],
        "round_us": {which: [v * 1e6 for v in values] for which, values in found.items()},
    }


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as lines to read."""
    head = (
        f"{'runtime':<22}{'kron µs':>9}{'dense µs':>10}{'ratio':>8}  {'rounds':<13}{'bar':>5}"
        f"{'dense GB/s':>12}{'probe GB/s':>12}{'× bound':>9}"
    )
    lines = [head]
    for r in results:
        spread = f"{r['ratio_low']:.0f}–{r['ratio_high']:.0f}"
        bar = "" if r["bar"] is None else f"{r['bar']:.0f}"
        lines.append(
            f"{r['runtime'] + ' ' + r['version']:<22}{r['kron_us']:>9.2f}{r['dense_us']:>10.1f}"
            f"{r['ratio']:>7.0f}×  {spread:<13}{bar:>5}"
            f"{r['dense_gb_s']:>12.1f}{r['read_gb_s']:>12.1f}{r['dense_over_bound']:>9.2f}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kron", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds, at least 1 (default 5)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--side", type=int, default=64, help="side of each factor (default 64)")
    parser.add_argument("--runtime", choices=[*runtimes.RUNTIMES], action="append")
    parser.add_argument("--json", type=Path, help="write the results here as well")
    given = parser.parse_args(arguments)
    spec = KronSpec((given.side,) * 2, (given.side,) * 2)
    names = given.runtime or list(runtimes.versions())
    facts = host_facts()
    results = [bench_runtime(spec, name, max(1, given.rounds), given.batch) for name in names]
    print(
        f"Kronecker {spec.in_features}→{spec.out_features} ({given.side}×{given.side} ⊗ "
        f"{given.side}×{given.side}) against dense, batch {given.batch}, one thread, through "
        f"Session.run, medians of {given.rounds} interleaved rounds"
    )
    print(f"{Kind.HOST}: {page.machine(facts)}")
    print(table(results))
    print(
        "× bound: the dense layer's time over the time to read its weights once at the probed "
        "bandwidth (a dot product over as many bytes, timed in the same rounds)"
    )
    noisy = [r["runtime"] for r in results if not 1 / UNFAIR < r["dense_over_bound"] < UNFAIR]
    if noisy:
        print(
            f"not to be quoted ({', '.join(noisy)}): the dense layer is far from its bound, other "
            "programs use the memory; repeat on a quiet machine"
        )
    if given.json is not None:
        given.json.write_text(json.dumps({"host": facts, "results": results}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
