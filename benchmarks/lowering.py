"""Does the planner's rule choose the fastest form of a layer?

``python -m benchmarks.lowering`` writes each layer of a fixed list in every candidate form and
times all of them in turns in one child process, batch 1 and 32, one thread. A second pass times
the rule's file, the best candidate of the first pass and the dense layer: finding and comparing in
the same pass would flatter whichever form was lucky. The regret of a cell is the median over
rounds of rule / best.

Exit code 1 where a bar is broken: a cell above 1.15 (1.25 where the best takes less than 10 µs),
the median above 1.02, or a layer more than 5 % slower than dense. ``--write`` puts the summary
into docs/benchmarks.md, with the cells of other runtimes from files that ``--json`` wrote before
(``--add``).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import page
from benchmarks.candidates import DENSE, RULE, candidates, write_dense, write_rule
from sepdeploy import runtimes
from sepdeploy.measure import Timing, host_facts, time_models
from sepdeploy.records import Kind
from sepdeploy.reports.tables import Table, markdown
from sepdeploy.structures import DebutSpec, KronSpec, LowRankSpec, Spec
from sepdeploy.structures.debut.chain import with_steps
from sepdeploy.structures.debut.search import best_chain

SIZES = ((4096, 4096), (25088, 4096), (784, 512), (768, 3072))
SQUARE = (1024, 1024)  # butterflies alone
RADICES = {  # of chains of square factors
    1024: ((32, 32), (8, 16, 8), (4,) * 5),
    4096: ((64, 64), (16,) * 3, (8,) * 4, (4,) * 6),
}
RATIOS = (10, 50, 200)
BATCHES = (1, 32)
BAR, SHORT_BAR, SHORT_US = 1.15, 1.25, 10.0
MEDIAN_BAR = 1.02
DENSE_BAR = 1.05
FAST = Timing(min_rounds=12, min_seconds=0.25, max_seconds=4.0, block_us=150.0)
CAREFUL = Timing(min_rounds=30, min_seconds=0.5, max_seconds=6.0, block_us=150.0)


@dataclass(frozen=True)
class Cell:
    """One layer at one batch size in one runtime: microseconds, and what they say."""

    runtime: str
    size: str
    layer: str
    batch: int
    form: str
    best: str
    rule_us: float
    best_us: float
    dense_us: float
    regret: float
    over_dense: float

    @property
    def bar(self) -> float:
        """The most that the rule may lose here."""
        return SHORT_BAR if self.best_us < SHORT_US else BAR

    @property
    def broken(self) -> bool:
        """Whether this cell is beyond a bar."""
        return self.regret > self.bar or self.over_dense > DENSE_BAR


def layers() -> Iterator[tuple[str, Spec]]:
    """Yield the fixed list: per size, Kronecker of 2 and 3 factors and low rank at each ratio.

    Butterflies: square ones of several radices, and the best chains of the two smaller sizes.
    """
    for n_in, n_out in SIZES:
        for ratio in RATIOS:
            for modes in (2, 3):
                spec = kron_at(n_in, n_out, modes, ratio)
                factors = "⊗".join(
                    f"{o}x{i}" for o, i in zip(spec.out_shape, spec.in_shape, strict=True)
                )
                yield factors, spec
            rank = max(1, round(n_in * n_out / (n_in + n_out) / ratio))
            yield f"rank {rank}", LowRankSpec(n_in, n_out, rank)
    yield "64x64⊗64x64", KronSpec((64, 64), (64, 64))
    for radices in RADICES.values():
        for radix in radices:
            name = "·".join(map(str, radix))
            yield f"debut {name}", DebutSpec.of(with_steps([(r, r) for r in radix]))
    for (n_in, n_out), ratio in itertools.product(SIZES[2:], (10, 20)):
        yield f"debut {ratio}x", DebutSpec.of(best_chain(n_in, n_out, ratio)[0])


def kron_at(n_in: int, n_out: int, modes: int, ratio: float) -> KronSpec:
    """The one-term layer nearest to a compression ratio; of equally near ones the squarest."""
    pairs = itertools.product(_splits(n_in, modes), _splits(n_out, modes))
    specs = [KronSpec(i, o) for i, o in pairs if min(i) > 1 and min(o) > 1]
    return min(specs, key=partial(_distance, ratio))


def _distance(ratio: float, spec: KronSpec) -> tuple[float, float, tuple[int, ...]]:
    found = spec.in_features * spec.out_features / spec.weight_params
    sides = zip(spec.in_shape, spec.out_shape, strict=True)
    skew = sum(abs(math.log(i / o)) for i, o in sides)
    return round(abs(math.log(found / ratio)), 1), round(skew, 6), spec.in_shape


def _splits(n: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (n,)
        return
    for first in (d for d in range(1, n + 1) if n % d == 0):
        for rest in _splits(n // first, parts - 1):
            yield (first, *rest)


def bench_layer(
    label: str, spec: Spec, runtime: str, dense: Path, folder: Path, batches: tuple[int, ...]
) -> Iterator[Cell]:
    """Time one layer in every form, in two passes per batch size."""
    format = runtimes.RUNTIMES[runtime].format
    paths = {RULE: folder / f"rule.{format}", DENSE: dense}
    form = write_rule(spec, paths[RULE])
    for index, (name, write) in enumerate(candidates(spec, format)):
        paths[name] = folder / f"candidate{index}.{format}"
        write(paths[name])
    for batch in batches:
        yield _cell(label, spec, runtime, form, paths, batch)


def measure_cells(
    names: list[str],
    chosen: list[tuple[str, Spec]],
    batches: tuple[int, ...],
    again: int,
    folder: Path,
) -> Iterator[Cell]:
    """Time layers in every runtime; a broken cell up to ``again`` times more.

    A disturbed pass does not repeat, a wrong rule does.
    """
    for runtime, size in itertools.product(names, (*SIZES, SQUARE)):
        own = [x for x in chosen if (x[1].in_features, x[1].out_features) == size]
        dense = folder / f"dense.{runtimes.RUNTIMES[runtime].format}"
        if own:
            write_dense(*size, dense)
        for label, spec in own:
            bench = partial(bench_layer, label, spec, runtime, dense, folder)
            for cell in bench(batches):
                yield _confirmed(cell, bench, again)


def _confirmed(cell: Cell, bench: Callable[[tuple[int, ...]], Iterator[Cell]], again: int) -> Cell:
    while cell.broken and again > 0:
        again -= 1
        (cell,) = bench((cell.batch,))
    return cell


def _cell(
    label: str, spec: Spec, runtime: str, form: str, paths: dict[str, Path], batch: int
) -> Cell:
    first = time_models(paths, runtime, replace(FAST, batch=batch)).samples()
    medians = {name: float(np.median(samples)) for name, samples in first.items()}
    best = min(medians, key=lambda name: medians[name])
    if best != RULE and paths[best].read_bytes() == paths[RULE].read_bytes():
        best = RULE
    final = {name: paths[name] for name in dict.fromkeys((RULE, best, DENSE))}
    second = time_models(final, runtime, replace(CAREFUL, batch=batch)).samples()
    arrays = {name: np.array(samples) * 1000 for name, samples in second.items()}
    return Cell(
        runtime,
        f"{spec.in_features}x{spec.out_features}",
        label,
        batch,
        form,
        form if best == RULE else best,
        float(np.median(arrays[RULE])),
        float(np.median(arrays[best])),
        float(np.median(arrays[DENSE])),
        float(np.median(arrays[RULE] / arrays[best])),
        float(np.median(arrays[RULE] / arrays[DENSE])),
    )


def row(cell: Cell) -> str:
    """Return one line of the table."""
    mark = "  BROKEN" if cell.broken else ""
    return (
        f"{cell.runtime:<15}{cell.size:<12}{cell.layer:<24}{cell.batch:>3}  {cell.form:<7}"
        f"{cell.best:<18}{cell.rule_us:>9.1f}{cell.best_us:>9.1f}{cell.dense_us:>10.1f}"
        f"{cell.regret:>7.2f}{1 / cell.over_dense:>8.1f}×{mark}"
    )


HEAD = (
    f"{'runtime':<15}{'size':<12}{'layer':<24}{'b':>3}  {'rule':<7}{'best':<18}{'rule µs':>9}"
    f"{'best µs':>9}{'dense µs':>10}{'regret':>7}{'vs dense':>9}"
)


def verdict(cells: list[Cell]) -> tuple[list[str], bool]:
    """Return what the cells say, in lines, and whether every bar holds."""
    lines, holds = [], True
    for runtime in dict.fromkeys(c.runtime for c in cells):
        own = [c for c in cells if c.runtime == runtime]
        regrets = [c.regret for c in own]
        median, broken = float(np.median(regrets)), [c for c in own if c.broken]
        lines.append(
            f"{runtime}: {len(own)} cells, regret median {median:.3f}, max {max(regrets):.2f}, "
            f"slowest against dense {max(c.over_dense for c in own):.2f}, {len(broken)} broken"
        )
        holds = holds and not broken and median <= MEDIAN_BAR
    return lines, holds


def section(cells: list[Cell]) -> str:
    """Return what the cells say as Markdown."""
    heads = ("runtime", "cells", "regret: median", "worst", "bar", "slowest against dense")
    table = Table((*heads, "broken"), range(1, 7))
    for runtime in dict.fromkeys(c.runtime for c in cells):
        own = [c for c in cells if c.runtime == runtime]
        worst = max(own, key=lambda c: c.regret)
        table.add(
            runtime,
            str(len(own)),
            f"{float(np.median([c.regret for c in own])):.3f}",
            f"{worst.regret:.2f} ({worst.size} {worst.layer}, batch {worst.batch})",
            f"{worst.bar:.2f}",
            f"{max(c.over_dense for c in own):.2f}",
            str(sum(c.broken for c in own)),
        )
    return (
        "Regret is the time of the planner's form over that of the best of all candidate forms "
        "(found in a first pass,\ncompared in a second); a cell is one layer at batch 1 or 32. "
        f"Bars: {BAR} in every cell ({SHORT_BAR} where the best\ntakes less than "
        f"{SHORT_US:.0f} µs), {MEDIAN_BAR} in the median, never more than "
        f"{(DENSE_BAR - 1) * 100:.0f} % slower than dense.\n\n" + "\n".join(markdown(table))
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lowering", description=__doc__)
    parser.add_argument("--runtime", choices=[*runtimes.RUNTIMES], action="append")
    parser.add_argument("--batch", type=int, action="append", help="default: 1 and 32")
    parser.add_argument("--only", default="", help="sizes or layers that contain this text")
    parser.add_argument("--again", type=int, default=1, help="times a broken cell is repeated")
    parser.add_argument("--json", type=Path, help="write the cells here as well")
    parser.add_argument("--add", type=Path, action="append", default=[], help="earlier cells")
    parser.add_argument("--write", type=Path, nargs="?", const=page.PAGE)
    given = parser.parse_args(arguments)
    names = given.runtime or [n for n in ("onnxruntime", "litert") if n in runtimes.versions()]
    facts = host_facts()
    print(f"{Kind.HOST}: {page.machine(facts)}, one thread")
    print(HEAD)
    cells: list[Cell] = []
    chosen = [x for x in layers() if given.only in f"{x[1].in_features}x{x[1].out_features} {x[0]}"]
    batches = tuple(given.batch or BATCHES)
    with tempfile.TemporaryDirectory(prefix="sepdeploy-") as folder:
        for cell in measure_cells(names, chosen, batches, given.again, Path(folder)):
            cells.append(cell)
            print(row(cell), flush=True)
    lines, holds = verdict(cells)
    print("\n".join([*lines, "every bar holds" if holds else "a bar is broken"]))
    if given.json is not None:
        found = {"host": facts, "cells": [asdict(c) for c in cells]}
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    if given.write is not None:
        added = [Cell(**c) for path in given.add for c in json.loads(path.read_text())["cells"]]
        text = section([*cells, *added])
        page.put("lowering", text, "python -m benchmarks.lowering --write", facts, given.write)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
