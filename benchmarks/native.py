"""Is a layer handed to the fused op only where native kernels are not slower, and what is gained?

``python -m benchmarks.native`` writes each layer of a fixed list in every standard form and as the
fused op, and times them in turns in one child process, batch 1 and 32, one thread. A first pass
finds the best standard form; a second one times that, the planner's standard form and the fused
op. The gain is the median over rounds of best standard form / fused op; the gain of a layer is the
geometric mean over the batches that the planner plans for (1, 1, 32).

Exit code 1 where the rule hands over a layer whose gain is below 1.0, or one that loses more than
a timer's tolerance at a single batch size. The kernels must be built first
(``sepdeploy devices setup host``); exit code 4 where they are not. ``--write`` puts the summary
into docs/benchmarks.md; ``--from`` does so with cells that ``--json`` wrote before.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks import page
from benchmarks.candidates import BOTH_RUNTIMES, RULE, candidates, canonical, write_rule
from benchmarks.lowering import layers
from sepdeploy import runtimes
from sepdeploy.exporters.families.cost import BATCHES
from sepdeploy.exporters.onnx_file.write import write_onnx
from sepdeploy.exporters.plan import FUSED, refuse_fused
from sepdeploy.exporters.tflite_file.write import write_tflite
from sepdeploy.measure import Timing, host_facts, run_job, time_models
from sepdeploy.measure.latency import latency_job
from sepdeploy.records import Kind, LoweringChoice
from sepdeploy.reports.tables import Table, markdown
from sepdeploy.structures import KronSpec, LowRankSpec, Spec

BAR = 1.0
TOLERANCE = 0.05  # of a single cell: what one and the same file differs from itself here
FIND = Timing(min_rounds=8, min_seconds=0.15, max_seconds=3.0, block_us=150.0)
COMPARE = Timing(min_rounds=24, min_seconds=0.4, max_seconds=5.0, block_us=150.0)
EXTRA: tuple[Spec, ...] = (
    KronSpec((28, 28), (32, 32)),
    KronSpec((32, 32), (32, 32)),
    KronSpec((16, 16), (16, 16)),
    KronSpec((8, 8), (8, 8)),
    KronSpec((32, 32), (2, 5)),
    KronSpec((96, 32), (32, 32)),
    KronSpec((512, 49), (64, 64)),
    KronSpec((128, 128), (128, 128)),
    KronSpec((8, 8, 8, 8), (8, 8, 8, 8)),
    KronSpec((64, 64), (64, 64), 2),
    KronSpec((64, 64), (64, 64), 4),
    KronSpec((256, 16), (256, 16), 2),
    KronSpec((16, 8, 8), (16, 8, 8), 2),
    LowRankSpec(64, 10, 4),
    LowRankSpec(512, 512, 16),
    LowRankSpec(1024, 1024, 64),
    LowRankSpec(2048, 2048, 512),
)


@dataclass(frozen=True)
class Cell:
    """One layer at one batch size in one runtime; microseconds."""

    runtime: str
    layer: str
    batch: int
    handed: bool
    rule: str
    best: str
    best_us: float
    rule_us: float
    fused_us: float
    gain: float
    native_calls: int


def name_of(spec: Spec) -> str:
    """Return a layer's name: "64x64⊗64x64", "… *2" for two terms, "1024→1024 rank 64"."""
    if isinstance(spec, KronSpec):
        pairs = zip(spec.out_shape, spec.in_shape, strict=True)
        terms = f" *{spec.terms}" if spec.terms > 1 else ""
        return "⊗".join(f"{o}x{i}" for o, i in pairs) + terms
    rank = f" rank {spec.rank}" if isinstance(spec, LowRankSpec) else ""
    return f"{spec.in_features}→{spec.out_features}{rank}"


def write_fused(spec: Spec, path: Path) -> None:
    """Write one layer as the fused op."""
    choices = (LoweringChoice("layer", spec.structure, FUSED),)
    if path.suffix == ".onnx":
        write_onnx(canonical(spec), path, flavour="custom", choices=choices)
    else:
        write_tflite(
            canonical(spec), path, flavour="custom", choices=choices, runtime=BOTH_RUNTIMES
        )


def bench_layer(spec: Spec, runtime: str, folder: Path) -> list[Cell]:
    """Time one layer at every batch size."""
    format = runtimes.RUNTIMES[runtime].format
    paths = {RULE: folder / f"rule.{format}", FUSED: folder / f"fused.{format}"}
    rule = write_rule(spec, paths[RULE])
    write_fused(spec, paths[FUSED])
    for index, (name, write) in enumerate(candidates(spec, format)):
        path = folder / f"candidate{index}.{format}"
        if can_write(spec, name):
            write(path)
            paths[name] = path
    handed = not refuse_fused(spec, rule, format)
    return [_cell(spec, runtime, b, handed, rule, paths) for b in dict.fromkeys(BATCHES)]


def can_write(spec: Spec, name: str) -> bool:
    """Whether a candidate exists for a layer: some forms are for a single term or two modes."""
    if not isinstance(spec, KronSpec) or spec.terms == 1:
        return True
    return not name.startswith("tt") and (len(spec.in_shape) == 2 or name.startswith("gemm2d"))


def _cell(
    spec: Spec, runtime: str, batch: int, handed: bool, rule: str, paths: dict[str, Path]
) -> Cell:
    standard = {name: path for name, path in paths.items() if name != FUSED}
    first = time_models(standard, runtime, replace(FIND, batch=batch)).samples()
    best = min(first, key=lambda name: float(np.median(first[name])))
    final = {name: paths[name] for name in dict.fromkeys((RULE, best, FUSED))}
    answer = run_job(latency_job(final, runtime, replace(COMPARE, batch=batch)))
    assert answer.times is not None
    second = answer.times.samples()
    arrays = {name: np.array(samples) * 1000 for name, samples in second.items()}
    return Cell(
        runtime,
        name_of(spec),
        batch,
        handed,
        rule,
        rule if best == RULE else best,
        float(np.median(arrays[best])),
        float(np.median(arrays[RULE])),
        float(np.median(arrays[FUSED])),
        float(np.median(arrays[best] / arrays[FUSED])),
        answer.native_calls,
    )


def layer_gain(cells: list[Cell]) -> float:
    """Return the gain of one layer: the geometric mean over the planner's batches."""
    gains = {cell.batch: cell.gain for cell in cells}
    return math.prod(gains[b] for b in BATCHES) ** (1 / len(BATCHES))


def broken(cells: list[Cell]) -> bool:
    """Whether a layer is handed over and loses."""
    worst = min(cell.gain for cell in cells)
    return cells[0].handed and (layer_gain(cells) < BAR or worst < BAR - TOLERANCE)


def rows(cells: list[Cell]) -> Iterator[str]:
    """Yield the table's lines for one layer."""
    for cell in cells:
        yield (
            f"{cell.runtime:<15}{cell.layer:<26}{cell.batch:>3}  {cell.best:<20}"
            f"{cell.best_us:>9.2f}{cell.fused_us:>10.2f}{cell.gain:>7.2f}"
            f"  {'handed' if cell.handed else 'kept'}{'  BROKEN' if broken(cells) else ''}"
        )


HEAD = (
    f"{'runtime':<15}{'layer':<26}{'b':>3}  {'best standard form':<20}{'µs':>9}"
    f"{'fused µs':>10}{'gain':>7}  rule"
)


def verdict(results: list[list[Cell]]) -> tuple[list[str], bool]:
    """Return what the layers say, in lines, and whether the bar holds."""
    lines, holds = [], True
    for runtime in dict.fromkeys(cells[0].runtime for cells in results):
        own = [cells for cells in results if cells[0].runtime == runtime]
        handed = [cells for cells in own if cells[0].handed]
        lost = sum(broken(cells) for cells in own)
        parts = []
        for batch in dict.fromkeys(BATCHES):
            gains = [c.gain for cells in handed for c in cells if c.batch == batch]
            if gains:
                median = float(np.median(gains))
                parts.append(f"batch {batch} {median:.2f}× ({min(gains):.2f}–{max(gains):.2f})")
        kept = [layer_gain(cells) for cells in own if not cells[0].handed]
        lines.append(
            f"{runtime}: {len(handed)} of {len(own)} layers handed over, median gain "
            f"{', '.join(parts) or '-'}; kept back {len(kept)}"
            + (f" (gain {min(kept):.2f}–{max(kept):.2f})" if kept else "")
            + f"; {lost} broken"
        )
        holds = holds and lost == 0
    return lines, holds


def section(results: list[list[Cell]]) -> str:
    """Return what the layers say as Markdown."""
    heads = ("runtime", "layers", "handed over", "median gain, batch 1", "batch 32")
    heads = (*heads, "least gain of one handed", "kept back: gain", "broken")
    table = Table(heads, range(1, 8))
    for runtime in dict.fromkeys(cells[0].runtime for cells in results):
        own = [cells for cells in results if cells[0].runtime == runtime]
        handed = [cells for cells in own if cells[0].handed]
        kept = sorted(layer_gain(cells) for cells in own if not cells[0].handed)
        spreads = []
        for batch in dict.fromkeys(BATCHES):
            gains = [c.gain for cells in handed for c in cells if c.batch == batch]
            spreads.append(f"{float(np.median(gains)):.2f}× ({min(gains):.2f}–{max(gains):.2f})")
        shown = ", ".join(f"{gain:.2f}×" for gain in kept) or "-"
        least, lost = f"{min(map(layer_gain, handed)):.2f}×", str(sum(map(broken, own)))
        table.add(runtime, str(len(own)), str(len(handed)), *spreads, least, shown, lost)
    return (
        "The gain is the time of the best of all standard forms over that of the fused op in "
        "native kernels; of a layer, the\ngeometric mean over the batches that the planner plans "
        "for (1, 1, 32). The rule may hand a layer over only where its\ngain is at least "
        f"{BAR:.1f} and no batch size loses more than {TOLERANCE * 100:.0f} %.\n\n"
        + "\n".join(markdown(table))
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.native", description=__doc__)
    parser.add_argument("--runtime", choices=[*runtimes.RUNTIMES], action="append")
    parser.add_argument("--only", default="", help="layers whose name contains this text")
    parser.add_argument("--again", type=int, default=1, help="times a broken layer is repeated")
    parser.add_argument("--json", type=Path, help="write the cells here as well")
    parser.add_argument("--write", type=Path, nargs="?", const=page.PAGE)
    parser.add_argument("--from", type=Path, dest="earlier", help="cells measured before")
    given = parser.parse_args(arguments)
    command = "python -m benchmarks.native --write"
    if given.earlier is not None:
        found = json.loads(given.earlier.read_text())
        every = [Cell(**cell) for cell in found["cells"]]
        groups = itertools.groupby(every, key=lambda c: (c.runtime, c.layer))
        text = section([list(cells) for _, cells in groups])
        page.put("native", text, command, found["host"], given.write or page.PAGE)
        return 0
    names = given.runtime or [n for n in ("onnxruntime", "litert") if n in runtimes.versions()]
    from sepdeploy.runtimes.native import native_status

    proven = native_status().runtimes
    if missing := [n for n in names if proven.get(n) != runtimes.versions()[n]]:
        print(f"no native kernels for {', '.join(missing)}: sepdeploy devices setup host")
        return 4
    facts = host_facts()
    print(f"{Kind.HOST}: {page.machine(facts)}, one thread")
    print(f"kernels built by {native_status().compiler}")
    print(HEAD)
    specs = [spec for _, spec in layers()] + list(EXTRA)
    chosen = [s for s in specs if given.only in name_of(s)]
    results: list[list[Cell]] = []
    with tempfile.TemporaryDirectory(prefix="sepdeploy-") as name:
        for runtime in names:
            for spec in chosen:
                cells = bench_layer(spec, runtime, Path(name))
                again = given.again
                while broken(cells) and again > 0:  # a disturbed pass does not repeat, a rule does
                    again -= 1
                    cells = bench_layer(spec, runtime, Path(name))
                results.append(cells)
                print("\n".join(rows(cells)), flush=True)
    lines, holds = verdict(results)
    print("\n".join([*lines, "the bar holds" if holds else "the bar is broken"]))
    if given.json is not None:
        found = {"host": facts, "cells": [asdict(c) for cells in results for c in cells]}
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    if given.write is not None:
        page.put("native", section(results), command, facts, given.write)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
