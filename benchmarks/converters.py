"""Our TFLite files against those of litert-torch, for the same saved models.

litert-torch and sepdeploy need not share an environment: it runs in the interpreter that is named,
one process a conversion. Compared are latency and size of the files, the conversion step alone
(ours: from the canonical ONNX graph), and the whole processes from a .pt file to a file, taken in
turns (ours proves the file in every runtime before it ends). The last two are judged by the
processor's seconds (user and system, children included), which other programs disturb least.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import page
from benchmarks.rivals import network_pair
from sepdeploy.measure import Timing, time_models
from sepdeploy.reports.tables import Table, markdown

PART = "litert-torch"
COMPARED = ("mlp", "lenet", "vgg16_bn", "vit_tiny")
STEP_BAR = 20.0
EQUAL = 0.97  # of "never slower": what two runs of one file may differ by here
QUIET = 5  # percentile of the rounds: other programs only ever slow a file down
TIMING = Timing(warmup=10, min_rounds=100, min_seconds=3.0, max_seconds=30.0, block_us=300.0)
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Comparison:
    """One network: our number first, then the other's; ratios above 1 mean that ours is better."""

    name: str
    us: tuple[float, float]
    bytes: tuple[int, int]
    step_s: tuple[float, float]
    process_s: tuple[float, float]
    wall_s: tuple[float, float]
    versions: dict[str, str]

    @property
    def ratios(self) -> dict[str, tuple[float, float]]:
        """Ratio and bar of each number."""
        bars = {"us": EQUAL, "bytes": 1.0, "step_s": STEP_BAR, "process_s": EQUAL, "wall_s": 0.0}
        pairs = {name: getattr(self, name) for name in bars}
        return {name: (pairs[name][1] / pairs[name][0], bar) for name, bar in bars.items()}

    @property
    def broken(self) -> bool:
        """Whether a ratio is below its bar."""
        return any(ratio < bar for ratio, bar in self.ratios.values())


def compare(name: str, python: str, rounds: int, folder: Path) -> Comparison:
    """Convert one network both ways and measure."""
    from sepdeploy.models import save

    model, _ = network_pair(name)
    source, own, other = folder / f"{name}.pt", folder / f"{name}.tflite", folder / "other.tflite"
    save(model, source)
    step = min(_our_step(model, folder / "step.tflite") for _ in range(rounds))
    command = [sys.executable, "-m", "sepdeploy", "export", str(source), "-f", "tflite"]
    command += ["--no-eval", "-q"]
    rival = [python, "-m", "benchmarks.litert_convert", str(source), str(other)]
    spent: tuple[list[Spent], list[Spent]] = ([], [])
    for _ in range(rounds):
        for done, words in zip(spent, (command, rival), strict=True):
            done.append(_process(words))
    facts = [json.loads(s.output.strip().splitlines()[-1]) for s in spent[1]]
    cpu, wall = ([min(getattr(s, n) for s in done) for done in spent] for n in ("cpu_s", "wall_s"))
    timed = time_models({p.stem: p for p in (own, other)}, "litert", TIMING).models
    us = [float(np.percentile(m.samples_ms, QUIET)) * 1000 for m in timed]
    return Comparison(
        name,
        (us[0], us[1]),
        (own.stat().st_size, other.stat().st_size),
        (step, min(f["convert_s"] for f in facts)),
        (cpu[0], cpu[1]),
        (wall[0], wall[1]),
        facts[0]["versions"],
    )


def _our_step(model: Any, path: Path) -> float:
    """The processor's seconds from the canonical graph to the file."""
    from sepdeploy.exporters.capture.trace import trace
    from sepdeploy.exporters.onnx_graph.merging import merged_for_tflite
    from sepdeploy.exporters.plan import plan
    from sepdeploy.exporters.tflite_file.write import write_tflite

    canonical = trace(model)
    start = time.process_time()
    choices = plan(canonical, "tflite")
    write_tflite(merged_for_tflite(canonical), path, choices=choices)
    return time.process_time() - start


@dataclass(frozen=True)
class Spent:
    """What a process took and wrote."""

    cpu_s: float
    wall_s: float
    output: str


def _process(command: list[str]) -> Spent:
    """Run a process to its end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    before, start = _children_s(), time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )
    wall = time.perf_counter() - start
    if done.returncode:
        message = f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}"
        raise RuntimeError(message)
    return Spent(_children_s() - before, wall, done.stdout)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(rows: list[Comparison]) -> str:
    """Return the rows as a Markdown table."""
    measured = (
        "µs: ours, theirs",
        "KiB: ours, theirs",
        "conversion step, CPU ms: ours, theirs",
        "whole process, CPU s: ours, theirs",
        "by the clock, s",
    )
    heads = ("network", *(head for name in measured for head in (name, "ratio")))
    drawn = Table(heads, range(1, len(heads)))
    for r in rows:
        cells = []
        for name, (ratio, bar) in r.ratios.items():
            own, other = getattr(r, name)
            shown = {
                "us": f"{own:.1f}, {other:.1f}",
                "bytes": f"{own / 1024:.1f}, {other / 1024:.1f}",
                "step_s": f"{own * 1000:.0f}, {other * 1000:.0f}",
                "process_s": f"{own:.1f}, {other:.1f}",
                "wall_s": f"{own:.1f}, {other:.1f}",
            }[name]
            text = f"{ratio:.0f}×" if ratio >= 10 else f"{ratio:.3f}×"
            cells += [shown, f"**{text}**" if ratio < bar else text]
        drawn.add(r.name, *cells)
    return "\n".join(markdown(drawn))


def run(python: str, rounds: int, facts: dict[str, Any], target: Path | None) -> int:
    """Compare every network, print the table and put it into the page; return how many miss."""
    rows = []
    for name in COMPARED:
        with tempfile.TemporaryDirectory(prefix="sepdeploy-") as folder:
            rows.append(compare(name, python, rounds, Path(folder)))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    versions = ", ".join(f"{n} {v}" for n, v in rows[0].versions.items())
    text = (
        f"Against {versions} in an environment of its own (fixed batch of 1; our files take any). "
        "Latency: both files in\nturns in LiteRT, 5th percentiles of rounds. Conversion step: "
        "`litert_torch.convert` and writing, against ours from\nthe canonical ONNX graph. Whole "
        f"process: from a .pt file to a file, least of {rounds} taken in turns; ours also runs "
        "it\nin every installed runtime and proves it equal. CPU: user and system seconds, with "
        "those of children. Ratios are\ntheirs / ours; bars: latency "
        f"{EQUAL}, size 1, step {STEP_BAR:.0f}, process {EQUAL}; bold is below.\n\n{table(rows)}"
    )
    if target is not None:
        command = "python -m benchmarks.export --only litert-torch --litert-torch PYTHON --write"
        page.put(PART, text, command, facts, target)
    return sum(row.broken for row in rows)
