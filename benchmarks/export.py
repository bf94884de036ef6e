"""How fast are exported files, as ratios taken in one run?

``python -m benchmarks.export`` times structured layers against their dense form, dense int8 beside
them, and whole networks against what plain ``torch.onnx.export`` (and litert-torch, where it is
installed) writes for the same module. All files of a row take turns in one child process, batch 1,
one thread; a ratio is that of the lower quartiles of their times. ``--write`` puts the table into
docs/benchmarks.md.

Exit code 1 where a bar is broken.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.candidates import canonical, write_dense, write_rule
from benchmarks.kron import write_pair
from benchmarks.rivals import (
    NETWORKS,
    network_pair,
    ours,
    plain_onnx,
    plain_tflite,
    quantized_dense,
)
from sepdeploy import __version__, runtimes
from sepdeploy.exporters.onnx_file import write_onnx
from sepdeploy.exporters.plan import plan
from sepdeploy.measure import host_facts, run_job
from sepdeploy.records import Kind
from sepdeploy.structures import KronSpec, LowRankSpec

SIDE = 4096
KRON = KronSpec((64, 64), (64, 64))
LOW_RANK = LowRankSpec(SIDE, SIDE, 10)  # 205 times fewer weights
TIMING = {
    "mode": "latency", "batch": 1, "threads": 1, "warmup": 10, "min_rounds": 60,
    "min_seconds": 1.5, "max_seconds": 20.0, "block_us": 300.0,
}  # fmt: skip
EQUAL = 0.97  # of "never slower": what two runs of one file may differ by here
EINSUM_BAR = 3.0
QUIET = 25  # percentile of the rounds that stands for a file: other programs only ever slow it down


@dataclass(frozen=True)
class Row:
    """One comparison: what, where, both times in microseconds, how often faster, and its bar.

    ``note`` says why there are no numbers.
    """

    what: str
    against: str
    runtime: str
    us: float | None = None
    other_us: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    bar: float | None = None
    note: str = ""

    @property
    def broken(self) -> bool:
        """Whether the ratio is below its bar."""
        return self.ratio is not None and self.bar is not None and self.ratio < self.bar


def compare(
    what: str, against: str, runtime: str, path: Path, other: Path, bar: float | None,
    native: dict[str, str] | None = None,
) -> Row:  # fmt: skip
    """Time two files in turns."""
    models = [{"name": n, "path": str(p)} for n, p in (("own", path), ("other", other))]
    result = run_job({**TIMING, "runtime": runtime, "models": models, "native": native or {}})
    own, rival = (np.array(m["samples_ms"]) * 1000 for m in result["models"])
    ratios = rival / own
    return Row(
        what,
        against,
        runtime,
        float(np.percentile(own, QUIET)),
        float(np.percentile(rival, QUIET)),
        float(np.percentile(rival, QUIET) / np.percentile(own, QUIET)),
        float(np.percentile(ratios, 5)),
        float(np.percentile(ratios, 95)),
        bar,
    )


def layer_rows(folder: Path) -> Iterator[Row]:
    """Yield the rows of single layers of 4096 → 4096."""
    bars = {("kron", "onnxruntime"): 160.0, ("kron", "litert"): 250.0}
    bars[("lowrank", "onnxruntime")] = 220.0
    pairs: dict[str, dict[str, Path]] = {}
    names = {"kron": "Kronecker 64×64 ⊗ 64×64", "lowrank": f"low rank {LOW_RANK.rank}"}
    for runtime in runtimes.versions():
        suffix = runtimes.RUNTIMES[runtime].format
        where = folder / suffix
        dense, low_rank = folder / f"dense.{suffix}", folder / f"lowrank.{suffix}"
        if not dense.is_file():
            where.mkdir()
            pairs[suffix] = write_pair(KRON, suffix, where)
            write_dense(SIDE, SIDE, dense)
            write_rule(LOW_RANK, low_rank)
        own, same = pairs[suffix]["kron"], pairs[suffix]["dense"]
        bar = bars.get(("kron", runtime))
        yield compare(names["kron"], "dense fp32", runtime, own, same, bar)
        bar = bars.get(("lowrank", runtime))
        yield compare(names["lowrank"], "dense fp32", runtime, low_rank, dense, bar)
    yield _own_op(folder)
    if "onnxruntime" in runtimes.versions():
        for mode in ("dynamic", "static"):
            path = quantized_dense(folder / "dense.onnx", mode)
            what = f"dense int8 ({mode})"
            yield compare(what, "dense fp32", "onnxruntime", path, folder / "dense.onnx", None)


def _own_op(folder: Path) -> Row:
    """The layer as a node of ai.sepdeploy, run by the native kernels where they are built."""
    what, path = "Kronecker 64×64 ⊗ 64×64, our op", folder / "custom.onnx"
    model = canonical(KRON)
    choices = plan(model, "onnx", flavour="custom")
    write_onnx(model, path, choices=choices, flavour="custom")
    found = runtimes.custom_nodes(path, "onnxruntime")
    if not found.library:
        return Row(what, "dense fp32", "onnxruntime", bar=200.0, note="not built")
    native = {str(path): str(found.library)}
    dense = folder / "dense.onnx"
    return compare(what, "dense fp32", "onnxruntime", path, dense, 200.0, native)


def network_rows(folder: Path) -> Iterator[Row]:
    """Yield the rows of whole networks: our files against those of other exporters."""
    for name in NETWORKS:
        own, rival = network_pair(name)
        where = folder / name
        files = ours(own, where)
        bar = EINSUM_BAR if name.startswith("Kronecker") else EQUAL
        other = plain_onnx(rival, own.input.shape, folder / f"{name}.plain.onnx")
        yield compare(name, "torch.onnx.export", "onnxruntime", files["onnx"], other, bar)
        if name.startswith("Kronecker"):
            continue
        why = "" if importlib.util.find_spec("litert_torch") else "litert_torch is not installed"
        if why:
            yield Row(name, "litert-torch", "litert", bar=EQUAL, note=why)
            continue
        other = plain_tflite(rival, own.input.shape, folder / f"{name}.plain.tflite")
        yield compare(name, "litert-torch", "litert", files["tflite"], other, EQUAL)


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| what | against | runtime | µs | other µs | ratio (5–95 %) | bar |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    for r in rows:
        bar = "" if r.bar is None else f"{r.bar:g}×"
        if r.ratio is None:
            numbers = f"| | | {r.note} | {bar} |"
        else:
            ratio, low, high = (
                f"{n:.{_digits(n)}f}" for n in (r.ratio, r.low or 0.0, r.high or 0.0)
            )
            spread = f"{ratio}× ({low}–{high})"
            if r.broken:
                spread = f"**{spread}**"
            numbers = f"| {r.us:.1f} | {r.other_us:.1f} | {spread} | {bar} |"
        lines.append(f"| {r.what} | {r.against} | {r.runtime} {numbers}")
    return "\n".join(lines)


def _digits(ratio: float) -> int:
    return 0 if ratio >= 20 else 1 if ratio >= 5 else 2


def document(rows: list[Row], facts: dict[str, Any]) -> str:
    """Return the page: what was measured, where, with which versions."""
    versions = {"sepdeploy": __version__, **runtimes.versions()}
    versions |= {"numpy": str(facts["numpy"]), "python": str(facts["python"])}
    versions |= _torch_version()
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    broken = [r for r in rows if r.broken]
    return f"""# Benchmarks

Written by `python -m benchmarks.export --write` on {datetime.date.today().isoformat()}.

Kind {Kind.HOST}: {facts["cpu"]}, {facts["cores"]} cores, load {facts["load"]}; one thread, batch 1.
{listed}.

Each row times its two files in turns, in one child process, through the session that users open.
Times are lower quartiles over rounds, since other programs only ever slow a file down; the ratio
is the other file's time / ours, beside it the 5th and 95th percentile of single rounds (wide ones
tell of a busy machine); above 1 ours is faster. Dense layers of 4096×4096 stream 64 MiB from
memory at batch 1, factors stay in the cache: these ratios are larger than those of operations and
shrink with the batch. A ratio in bold is below its bar{"" if broken else " (none is)"}.

{table(rows)}

`python -m benchmarks.lowering` compares the planner's choice with every candidate form,
`python -m benchmarks.kron` the Kronecker layer with its memory bound.
"""


def _torch_version() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return {"torch": version("torch")}
    except PackageNotFoundError:
        return {}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("--only", choices=("layers", "networks"))
    parser.add_argument("--write", type=Path, nargs="?", const=Path("docs/benchmarks.md"))
    given = parser.parse_args(arguments)
    facts = host_facts()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="sepdeploy-") as name:
        for part, found in (("layers", layer_rows), ("networks", network_rows)):
            for row in found(Path(name)) if given.only in (None, part) else ():
                rows.append(row)
                print(table([row]).splitlines()[-1], flush=True)
    broken = [r for r in rows if r.broken]
    print(f"\n{facts['cpu']}, load {facts['load']}: {len(broken)} of {len(rows)} rows below a bar")
    if given.write is not None:
        given.write.write_text(document(rows, facts))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
