"""The second cost model: cycles of what the emulated runtime executed.

A block takes as long as its busiest pipe or the dispatch needs, by tables of ports per instruction
(``ports``, made by ``tools/ports.py``); blocks without vector arithmetic at least the core's own
rate, because their instructions wait for each other. To this come branches and caches::

    t = (cycles + penalties) / (threads · clock · efficiency)
        + max(latency of L2 and L3, bytes out of a shared L2 / its bandwidth)
        + exposed share · bytes from memory / bandwidth

The constants of the boards were chosen to meet published latencies of MobileNetV1 and V2 on a Pi 4;
docs/devices.md says which rows they met without having been chosen by them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from functools import cache
from importlib import resources

from sepdeploy.codec import from_json, parse_toml
from sepdeploy.devices.estimate.calibration import family_of
from sepdeploy.devices.estimate.executed import LINE, Events, Executed, signature
from sepdeploy.devices.profile import DeviceProfile

MODEL = "cycles-1"
EFFICIENCY = 0.95  # of more threads than one
EXPOSED = 0.7  # share of the time of memory that computing does not hide
VECTOR_SHARE = 8  # a block with at least an eighth of vector instructions is a kernel's


@dataclass(frozen=True)
class Board:
    """Constants of a family of cores.

    Attributes:
        scalar: Cycles an instruction of code without vectors.
        l2: Cycles of a line found in L2, within a stream and alone.
        l3: The same for L3.
        mispredicted: Cycles of a branch that went another way.
        l1i: Cycles of an instruction line that L1I lacked.
        shared_gbs: Bandwidth of an L2 that all cores share, GB/s; 0 = each has its own.
        one: Share of the profile's bandwidth that one thread gets from memory.
    """

    scalar: float
    l2: tuple[float, float]
    l3: tuple[float, float]
    mispredicted: float
    l1i: float
    shared_gbs: float
    one: float


BOARDS = {
    "a72": Board(0.8, (5, 15), (0, 0), 15, 10, 12.0, 0.8),
    "a76": Board(0.5, (3, 9), (10, 30), 11, 8, 0.0, 0.86),
}


@dataclass(frozen=True)
class PortClass:
    """Instructions that use the same pipes: micro-operations and cycles of each pipe."""

    uops: int
    pipes: dict[str, float]
    instructions: tuple[str, ...]


@dataclass(frozen=True)
class Ports:
    """The table of a family of cores; ``pipes`` tells how many there are of each kind."""

    model: str
    llvm: str
    width: int
    pipes: dict[str, int]
    classes: tuple[PortClass, ...] = field(default=())


@cache
def ports(family: str) -> tuple[Ports, Mapping[int, PortClass]]:
    """Return the packaged table of a family, and its classes by signature."""
    name = f"ports/{family}.toml"
    text = (resources.files("sepdeploy.devices") / "estimate" / name).read_text(encoding="utf-8")
    table = from_json(Ports, parse_toml(text, where=name), where=name)
    return table, {int(s, 16): c for c in table.classes for s in c.instructions}


@dataclass(frozen=True)
class Work:
    """What one inference costs on a core, whatever its board: cycles and events.

    ``kernels`` are cycles of blocks with vector arithmetic, ``scalar`` of the others; ``unknown``
    is the share of instructions that the table does not have.
    """

    instructions: int
    kernels: float
    scalar: float
    unknown: float
    events: Events


def work(executed: Executed, family: str) -> Work:
    """Return the cycles of an inference on a family of cores that has a table."""
    table, known = ports(family)
    cycles = {True: 0.0, False: 0.0}
    total = strange = 0
    for count, words in executed.blocks:
        uops, load, vectors = 0, Counter[str](), 0
        for word in words:
            entry = known.get(signature(word))
            strange += count * (entry is None)
            uops += 1 if entry is None else entry.uops
            load.update({} if entry is None else entry.pipes)
            vectors += word >> 25 & 7 == 7
        kernel = vectors * VECTOR_SHARE >= len(words)
        bound = max([uops / table.width, *(v / table.pipes[k] for k, v in load.items())])
        if not kernel:
            bound = max(bound, BOARDS[family].scalar * len(words))
        cycles[kernel] += count * bound
        total += count * len(words)
    return Work(total, cycles[True], cycles[False], strange / max(total, 1), executed.events)


@dataclass(frozen=True)
class CycleEstimate:
    """Milliseconds by cycles, and where they go."""

    ms: float
    compute_ms: float
    memory_ms: float
    overhead_ms: float
    work: Work

    def details(self) -> dict[str, object]:
        """Return what stands beside the value."""
        return {
            "model": MODEL,
            "ms": self.ms,
            "parts": {
                "compute": self.compute_ms,
                "memory": self.memory_ms,
                "overhead": self.overhead_ms,
            },
            "cycles": round(self.work.kernels + self.work.scalar),
            "instructions": self.work.instructions,
            "unknown": round(self.work.unknown, 4),
            "events": list(astuple(self.work.events)),
        }


def estimable(profile: DeviceProfile) -> bool:
    """Whether the fastest cores of a device have a table."""
    return bool(profile.estimable and family_of(profile.cluster[0].core) in BOARDS)


def time_of(done: Work, profile: DeviceProfile, threads: int = 1) -> CycleEstimate:
    """Return how long an inference takes on a device whose ``estimable`` is true.

    Args:
        done: Of the family of the device's fastest cores.
        profile: The device.
        threads: Of the runtime; at most the fastest cluster's cores count.
    """
    cluster, memory = profile.cluster[0], profile.memory
    assert memory is not None
    board, e = BOARDS[family_of(cluster.core)], done.events
    n = min(threads, cluster.count)
    share = n * cluster.ghz * 1e6 * (EFFICIENCY if n > 1 else 1.0)  # cycles a millisecond
    branches = e.mispredicted * board.mispredicted + e.l1i_misses * board.l1i
    near = (e.l2 * board.l2[0] + e.l2_alone * board.l2[1]) / share
    near += (e.l3 * board.l3[0] + e.l3_alone * board.l3[1]) / share
    lacked = e.l2 + e.l2_alone + e.l3 + e.l3_alone + e.memory + e.memory_alone
    if board.shared_gbs:
        near = max(near, lacked * LINE / (board.shared_gbs * 1e6))
    bandwidth = memory.bw_gbs * 1e6 * (board.one if n == 1 else 1.0)
    far = EXPOSED * (e.memory + e.memory_alone + e.written) * LINE / bandwidth
    compute, overhead = done.kernels / share, (done.scalar + branches) / share
    return CycleEstimate(compute + overhead + near + far, compute, near + far, overhead, done)
