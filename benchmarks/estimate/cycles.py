"""Published latencies by cycles of what the same network executes here.

``executed.csv`` holds, for each, the totals of one emulated inference, so that the ratios are
recomputed without an emulator; `python -m benchmarks.estimate.cycles FILE DEVICE` prints the totals
of a file (those of ``benchmarks.estimate.files``) on a device that was set up.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

from benchmarks.estimate.published import HERE, profile_at
from sepdeploy.devices import profile
from sepdeploy.devices.emulation import Emulator, device_transport, record_blocks
from sepdeploy.devices.estimate import Work, parse_blocks, time_of, work
from sepdeploy.devices.estimate.calibration import family_of
from sepdeploy.devices.estimate.executed import Events


@dataclass(frozen=True)
class Row:
    """One published latency and what the network executes; ``use`` as in ``published``."""

    device: str
    ghz: float
    network: str
    dtype: str
    threads: int
    kernels: str
    use: str
    ms: float
    work: Work

    @property
    def ratio(self) -> float:
        """Estimated / published."""
        return time_of(self.work, profile_at(self.device, self.ghz), self.threads).ms / self.ms


@cache
def rows() -> tuple[Row, ...]:
    """Return the table."""
    lines = (HERE / "executed.csv").read_text(encoding="utf-8").splitlines()
    return tuple(_row(row) for row in csv.DictReader(x for x in lines if x[0] != "#"))


def _row(row: dict[str, str]) -> Row:
    done = Work(
        int(row["instructions"]),
        float(row["kernel_cycles"]),
        float(row["scalar_cycles"]),
        0.0,
        Events(*map(int, row["events"].split())),
    )
    return Row(
        row["device"],
        float(row["ghz"]),
        row["network"],
        row["dtype"],
        int(row["threads"]),
        row["kernels"],
        row["use"],
        float(row["ms"]),
        done,
    )


def totals(text: str, core: str) -> str:
    """Return the last columns of a row from a record of blocks."""
    done = work(parse_blocks(text), family_of(core))
    events = " ".join(map(str, astuple(done.events)))
    return f"{done.instructions},{done.kernels:.0f},{done.scalar:.0f},{events}"


def main() -> None:
    """Record and print."""
    path, device = Path(sys.argv[1]), profile(sys.argv[2])
    with device_transport(device) as transport:
        recorded = record_blocks(Emulator(transport), path)
    if recorded.value is None:
        sys.exit(recorded.finding)
    print(totals(recorded.value, device.cluster[0].core))


if __name__ == "__main__":
    main()
