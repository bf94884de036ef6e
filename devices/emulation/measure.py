"""EMULATED measurements: instructions and memory. Never a time.

The emulator's clock says nothing about the device, so nothing that depends on it leaves this
module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from sepdeploy.devices.emulation.emulator import Emulator, IllegalInstruction
from sepdeploy.errors import ANSWER, BadInput, Unstable, unknown_name
from sepdeploy.files import scratch
from sepdeploy.jobs import Job
from sepdeploy.metrics import measured
from sepdeploy.records import Kind, Measurement

RUNTIME_OF = {".onnx": "onnxruntime", ".tflite": "litert"}
CLASSES = ("total", "simd", "ldst", "fmla", "dot")
MOST_PROCESSES = 6
FIRST, LAST = 4, 8  # the inferences whose median counts; the ones before warm up

T = TypeVar("T")
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """A value, or the finding that stands in its place: what cannot be had, and why."""

    value: T | None
    facts: dict[str, object]
    finding: str = ""

    def absent(self, metric: str) -> Measurement:
        """Return the measurement without a value that gives the finding as its reason."""
        details = {"reason": self.finding, **self.facts}
        return measured(metric, None, Kind.EMULATED, n=0, details=details)


@dataclass(frozen=True)
class Counts:
    """Instructions of one inference by class.

    ``simd`` is floating point and vector arithmetic, ``ldst`` loads and stores of every kind,
    ``fmla`` the fused multiply-adds on vectors and ``dot`` the int8 dot products and matrix
    products among ``simd``. ``inferences`` are the totals of all inferences in order, the first
    included; the others are medians of the fourth to the eighth. Two counts are equal when these
    medians are: a runtime's heap settles an inference sooner or later under load.
    """

    total: int
    simd: int
    ldst: int
    fmla: int
    dot: int
    inferences: tuple[int, ...] = field(compare=False)
    threads: int = 1

    @property
    def steady(self) -> tuple[int, ...]:
        """The totals that the median was taken of."""
        return self.inferences[FIRST - 1 : LAST]


def runtime_for(path: Path) -> str:
    """Return the runtime that is emulated for a file.

    Raises:
        BadInput: The file's name ends in neither ``.onnx`` nor ``.tflite``.
    """
    if path.suffix not in RUNTIME_OF:
        raise unknown_name(f"format of {path.name}", path.suffix, RUNTIME_OF)
    return RUNTIME_OF[path.suffix]


def count_instructions(emulator: Emulator, path: Path, *, optimize: bool = True) -> Outcome[Counts]:
    """Count the instructions of one inference at batch 1.

    A count stands when two processes agree on it to the last instruction: on an overloaded host
    one process in a few gives some ten instructions more or fewer.

    Args:
        emulator: Of ``qemu_transport`` or ``device_transport``.
        path: ``.onnx`` (ONNX Runtime) or ``.tflite`` (LiteRT).
        optimize: Whether the runtime optimises the graph (ONNX Runtime only).

    Raises:
        BadInput: The file is not usable, or it takes too long.
        Missing: The emulator's bundle is damaged.
        Unstable: No two processes agree.
    """

    def once(runtime: str) -> Counts:
        with scratch() as folder:
            counts = folder / "counts.txt"
            job = Job("count", runtime, {"artifact": path}, {"runs": LAST, "optimize": optimize})
            emulator.run_job(job, counts=counts)
            return parse_counts(counts.read_text(encoding="ascii"))

    def work(runtime: str) -> Counts:
        seen: list[Counts] = []
        while len(seen) < MOST_PROCESSES:
            found = once(runtime)
            if found in seen:
                return found
            seen.append(found)
        totals = ", ".join(str(c.total) for c in seen)
        raise Unstable(
            f"{path}: {MOST_PROCESSES} processes counted differently ({totals})",
            hint="run it again on an idle machine",
        )

    if not emulator.facts.get("plugin"):
        version = emulator.facts.get("qemu", "")
        return Outcome(None, emulator.details(runtime_for(path)), f"qemu {version} cannot count")
    return _found(emulator, path, work)


def record_blocks(emulator: Emulator, path: Path) -> Outcome[str]:
    """Record what the second inference executes, for ``estimate.cycles``.

    Raises:
        BadInput: The file is not usable, or it takes too long.
        Missing: The bundle is damaged.
    """

    def work(runtime: str) -> str:
        with scratch() as folder:
            blocks = folder / "blocks.txt"
            job = Job("count", runtime, {"artifact": path}, {"runs": 2, "optimize": True})
            emulator.run_job(job, blocks=blocks)
            return blocks.read_text(encoding="ascii")

    if not emulator.facts.get("plugin"):
        version = emulator.facts.get("qemu", "")
        return Outcome(None, emulator.details(runtime_for(path)), f"qemu {version} cannot record")
    return _found(emulator, path, work)


def parse_counts(text: str) -> Counts:
    """Read what the plugin wrote: a line per marker, then ``end`` and the number of threads.

    Raises:
        BadInput: It is cut off or holds too few markers.
    """
    rows = [line.split() for line in text.splitlines()]
    if len(rows) < LAST + 2 or rows[-1][:1] != ["end"]:
        raise BadInput(
            f"the counter saw {max(0, len(rows) - 1)} markers, expected {LAST + 1}", hint=ANSWER
        )
    values = np.array([[int(v) for v in row[1:]] for row in rows[:-1]], dtype=np.int64)
    steps = np.diff(values, axis=0)
    total, simd, ldst, fmla, dot = (
        int(median_low(steps[FIRST - 1 : LAST, k].tolist())) for k in range(len(CLASSES))
    )
    inferences = tuple(int(v) for v in steps[:, 0])
    return Counts(total, simd, ldst, fmla, dot, inferences, int(rows[-1][1]))


def peak_memory(emulator: Emulator, path: Path) -> Outcome[int]:
    """Return the peak resident memory of the runner in bytes, the emulator's own not included.

    It is sampled every few milliseconds of a process that loads the model and runs it five times.

    Raises:
        BadInput: The file is not usable.
        Missing: The bundle is damaged.
    """

    def work(runtime: str) -> int:
        job = Job("memory", runtime, {"artifact": path}, {"emulated": True})
        return emulator.run_job(job).memory["peak"]

    return _found(emulator, path, work)


def measurements(emulator: Emulator, path: Path) -> tuple[Measurement, ...]:
    """Return ``instructions`` and ``peak_rss_bytes`` of an artifact, kind EMULATED.

    A finding becomes a measurement without a value whose ``reason`` says it.

    Raises:
        BadInput: The file is not usable.
        Missing: The emulator is not complete.
    """
    counted = count_instructions(emulator, path)
    found = []
    if counted.value is None:
        found.append(counted.absent("instructions"))
    else:
        parts = {name: getattr(counted.value, name) for name in CLASSES[1:]}
        details = {**parts, "batch": 1, "inferences": f"{FIRST}-{LAST}", **counted.facts}
        steady = counted.value.steady
        found.append(
            measured(
                "instructions",
                counted.value.total,
                Kind.EMULATED,
                n=len(steady),
                samples=tuple(float(v) for v in steady),
                details=details,
            )
        )
    memory = peak_memory(emulator, path)
    if memory.value is None:
        found.append(memory.absent("peak_rss_bytes"))
    else:
        found.append(measured("peak_rss_bytes", memory.value, Kind.EMULATED, details=memory.facts))
    return tuple(found)


def _found(emulator: Emulator, path: Path, work: Callable[[str], T]) -> Outcome[T]:
    """Do the work; an instruction that the core lacks is a finding about the device."""
    runtime = runtime_for(path)
    facts = emulator.details(runtime)
    try:
        return Outcome(work(runtime), facts)
    except IllegalInstruction as error:
        return Outcome(None, facts, error.message)
