"""How fast are exported files, as ratios taken in one run?

``python -m benchmarks.export`` times structured layers against their dense form (as standard ops,
and as our op in native kernels, which are built first where there is a compiler), dense int8, whole
networks against what plain ``torch.onnx.export`` writes for the same module, and, with
``--litert-torch PYTHON`` (an interpreter that has litert-torch), against that converter. All files
of a row take turns in one child process, batch 1, one thread; a ratio is that of the 5th
percentiles of their times. ``--write`` puts each part into its section of docs/benchmarks.md as
soon as it is done; ``--only`` leaves the other sections as they are.

Exit code 1 where a bar is broken.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks import converters, page
from benchmarks.candidates import write_dense, write_rule
from benchmarks.kron import write_pair
from benchmarks.native import write_fused
from benchmarks.rivals import NETWORKS, int8_files, network_pair, ours, plain_onnx, quantized_dense
from sepdeploy import runtimes
from sepdeploy.errors import SepdeployError
from sepdeploy.measure import Timing, host_facts, time_models
from sepdeploy.reports.tables import Table, markdown
from sepdeploy.structures import KronSpec, LowRankSpec

SIDE = 4096
KRON = KronSpec((64, 64), (64, 64))
LOW_RANK = LowRankSpec(SIDE, SIDE, 10)  # 205 times fewer weights
NAMES = {"kron": "Kronecker 64×64 ⊗ 64×64", "lowrank": f"low rank {LOW_RANK.rank}"}
BARS = {
    ("kron", "onnxruntime"): 160.0,
    ("kron", "litert"): 250.0,
    ("lowrank", "onnxruntime"): 220.0,
}
OWN_OP_BARS = {("kron", "onnxruntime"): 200.0}
TIMING = Timing(warmup=10, min_rounds=100, min_seconds=2.0, max_seconds=30.0, block_us=300.0)
# Long enough that int8 weights (16 MiB) are in the cache again after the other file's turn.
LONG_BLOCKS = replace(TIMING, block_us=5000.0, min_rounds=30)
EQUAL = 0.97  # of "never slower": what two runs of one file may differ by here
EINSUM_BAR = 3.0
QUIET = 5  # percentile of the rounds that stands for a file: other programs only ever slow it down


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
    what: str, against: str, runtime: str, path: Path, other: Path, bar: float | None = None,
    timing: Timing | None = None,
) -> Row:  # fmt: skip
    """Time two files in turns; native kernels run the custom nodes of either, where they fit."""
    times = time_models({"own": path, "other": other}, runtime, timing or TIMING)
    own, rival = (np.array(m.samples_ms) * 1000 for m in times.models)
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
    """Yield the rows of single layers of 4096 → 4096, first as standard ops, then as our op."""
    files = {f: _layer_files(folder, f) for f in ("onnx", "tflite") if runtimes.installed(f)}
    for runtime in runtimes.versions():
        found = files[runtimes.RUNTIMES[runtime].format]
        for structure, name in NAMES.items():
            path, dense = found[structure], found[f"{structure} dense"]
            yield compare(name, "dense fp32", runtime, path, dense, BARS.get((structure, runtime)))
    why = _build_kernels()
    for runtime in runtimes.versions():
        found = files[runtimes.RUNTIMES[runtime].format]
        for structure, name in NAMES.items():
            what, bar = f"{name}, our op", OWN_OP_BARS.get((structure, runtime))
            path, dense = found[f"{structure} fused"], found["lowrank dense"]
            claim = runtimes.custom_nodes(path, runtime)
            if claim.kernels == "native":
                yield compare(what, "dense fp32", runtime, path, dense, bar)
            else:
                yield Row(what, "dense fp32", runtime, bar=bar, note=why or claim.note)


def _layer_files(folder: Path, format: str) -> dict[str, Path]:
    """Write the layers in one format: standard, as our op, and their dense forms."""
    where = folder / format
    where.mkdir()
    pair = write_pair(KRON, format, where)  # its input keeps the modes, as a first layer's does
    names = ("lowrank", "lowrank dense", "kron fused", "lowrank fused")
    found = {name: where / f"{name.replace(' ', '-')}.{format}" for name in names}
    write_dense(SIDE, SIDE, found["lowrank dense"])
    write_rule(LOW_RANK, found["lowrank"])
    write_fused(KRON, found["kron fused"])
    write_fused(LOW_RANK, found["lowrank fused"])
    return {"kron": pair["kron"], "kron dense": pair["dense"], **found}


def _build_kernels() -> str:
    """Build the native kernels where they are not, and return why there are none."""
    from sepdeploy.runtimes.native import build_native

    try:
        build_native()
    except SepdeployError as error:
        return error.message
    return ""


def int8_rows(folder: Path) -> Iterator[Row]:
    """Yield the rows of dense int8: against dense fp32, and the Kronecker layer against it."""
    for runtime in ("onnxruntime", "litert"):
        if runtime not in runtimes.versions():
            continue
        format = runtimes.RUNTIMES[runtime].format
        where = folder / f"int8-{format}"
        where.mkdir()
        found = int8_files(where, format)
        if format == "onnx":
            found["dynamic, ONNX Runtime's tool"] = quantized_dense(found["none"], "dynamic")
        kron = found.pop("kron")
        for mode in [m for m in found if m != "none"]:
            what, path = f"dense int8 ({mode})", found[mode]
            yield compare(what, "dense fp32", runtime, path, found["none"], timing=LONG_BLOCKS)
        path = found["dynamic"]
        against = "dense int8 (dynamic)"
        yield compare(NAMES["kron"], against, runtime, kron, path, timing=LONG_BLOCKS)


def network_rows(folder: Path) -> Iterator[Row]:
    """Yield the rows of whole networks: our files against those of plain ``torch.onnx.export``."""
    for name in NETWORKS:
        own, rival = network_pair(name)
        files = ours(own, folder / name, formats=("onnx",))
        bar = EINSUM_BAR if name.startswith("Kronecker") else EQUAL
        other = plain_onnx(rival, own.input.shape, folder / f"{name}.plain.onnx")
        yield compare(name, "torch.onnx.export", "onnxruntime", files["onnx"], other, bar)


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    heads = ("what", "against", "runtime", "µs", "other µs", "ratio (5–95 %)", "bar")
    drawn = Table(heads, (3, 4, 5, 6))
    for r in rows:
        bar = "" if r.bar is None else f"{r.bar:g}×"
        if r.ratio is None:
            numbers = ("", "", r.note)
        else:
            ratio, low, high = (
                f"{n:.{_digits(n)}f}" for n in (r.ratio, r.low or 0.0, r.high or 0.0)
            )
            spread = f"{ratio}× ({low}–{high})"
            if r.broken:
                spread = f"**{spread}**"
            numbers = (f"{r.us:.1f}", f"{r.other_us:.1f}", spread)
        drawn.add(r.what, r.against, r.runtime, *numbers, bar)
    return "\n".join(markdown(drawn))


def _digits(ratio: float) -> int:
    return 0 if ratio >= 20 else 1 if ratio >= 5 else 2


READ = """Each row times its two files in turns, in one child process, through the adapters behind
`Session.run` (input copied in, logits copied out). Times are 5th percentiles of rounds, since
other programs only ever slow a file down; the ratio is the other file's time / ours, beside it the
5th and 95th percentile of single rounds (wide ones tell of a busy machine); above 1 ours is faster.
A ratio in bold is below its bar."""
NOTES = {
    "layers": (
        "Dense layers of 4096×4096 stream 64 MiB from memory at batch 1, factors stay in the cache:"
        "\nthese ratios are larger than those of operations, shrink with the batch, and fall where "
        "memory\nis fast: compare them at the same GB/s of the dense layer only. The next section "
        "has the bounds."
    ),
    "int8": (
        "Blocks of 5 ms: int8 weights (16 MiB) lie in a large cache while one file runs again and "
        "again,\nfp32 ones (64 MiB) do not. In blocks of a single run, in turns with the fp32 "
        "file, int8 fetches\nits weights from memory as well and is 2.5–3× as fast as fp32."
    ),
    "networks": (
        "The same module, exported by us and by `torch.onnx.export(dynamo=True)` alone. In the "
        "plain module\nthe Kronecker net's layers are written with einsum."
    ),
}
PARTS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "layers": layer_rows,
    "int8": int8_rows,
    "networks": network_rows,
}


def _streaming(rows: list[Row]) -> str:
    """Say how fast the dense fp32 layers streamed their weights; nothing for rows without them."""
    dense = [r for r in rows if r.against == "dense fp32" and r.other_us]
    speeds = [SIDE * SIDE * 4 / (r.other_us or 1.0) / 1000 for r in dense]
    if not speeds:
        return ""
    return f"\nHere dense fp32 streamed {min(speeds):.0f}–{max(speeds):.0f} GB/s."


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("--only", choices=(*PARTS, converters.PART), action="append")
    parser.add_argument("--litert-torch", metavar="PYTHON", help="an interpreter that has it")
    parser.add_argument("--rounds", type=int, default=3, help="of whole processes (default 3)")
    parser.add_argument("--write", type=Path, nargs="?", const=page.PAGE)
    given = parser.parse_args(arguments)
    command, broken = "python -m benchmarks.export", 0
    for part, found in PARTS.items():
        if given.only is not None and part not in given.only:
            continue
        facts, rows = host_facts(), []
        with tempfile.TemporaryDirectory(prefix="sepdeploy-") as name:
            for row in found(Path(name)):
                rows.append(row)
                print(table([row]).splitlines()[-1], flush=True)
        broken += sum(row.broken for row in rows)
        if given.write is not None:
            text = f"{READ}\n\n{NOTES[part]}{_streaming(rows)}\n\n{table(rows)}"
            page.put(part, text, f"{command} --only {part} --write", facts, given.write)
    if given.litert_torch and (given.only is None or converters.PART in given.only):
        facts = host_facts()
        broken += converters.run(given.litert_torch, given.rounds, facts, given.write)
    print(f"{broken} rows below a bar")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
