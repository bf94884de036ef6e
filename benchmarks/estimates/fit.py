"""Fits the coefficients of the cost model to published latencies.

``python -m benchmarks.estimates.fit`` prints the text of ``calibration.toml``; the tests
hold that the packaged file is what the packaged table gives.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.estimates.networks import NETWORKS
from sepdeploy.devices.estimate.model import (
    FEATURES,
    MODEL,
    Coefficients,
    Machine,
    features,
    machine,
    overhead_ms,
    read_table,
)
from sepdeploy.devices.estimate.op import DTYPES, Op
from sepdeploy.devices.profile import DeviceProfile, profile

# The least value that each coefficient may take. 3×3 convolutions may fall to a quarter of their
# multiplications (Winograd F(4×4, 3×3), Lavin and Gray 2016).
LEAST = (1.0, 0.25, 1.0, 0.0, 1.0)

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Published:
    """One published latency, with what the model makes of its network on that device.

    ``board`` tells devices apart that have the same id and another clock.
    """

    device: str
    board: str
    network: str
    runtime: str
    dtype: str
    threads: int
    ms: float
    fit: bool
    features: Coefficients
    overhead: float

    def predicted(self, coefficients: Sequence[float]) -> float:
        """Return the model's latency in milliseconds."""
        terms = zip(coefficients, self.features, strict=True)
        return self.overhead + sum(c * x for c, x in terms)


def total_features(ops: Sequence[Op], on: Machine, *, winograd: bool) -> Coefficients:
    """Return the sums of ``features`` over a network."""
    rows = [features(op, on, winograd=winograd) for op in ops]
    return tuple(sum(column) for column in zip(*rows, strict=True))


def published() -> tuple[Published, ...]:
    """Return the packaged table, one entry for each latency."""
    return tuple(entry for row in read_table("published.toml")["row"] for entry in _entries(row))


def _entries(row: dict[str, Any]) -> Iterator[Published]:
    device = profile_at(row["device"], row.get("ghz"))
    board = f"{row['device']} {device.cluster[0].ghz} GHz"
    on = machine(device, row["threads"])
    for key, dtype in (("ms", row.get("dtype", "fp32")), ("int8_ms", "int8")):
        for network, ms in row.get(key, {}).items():
            ops = as_dtype(NETWORKS[network](), dtype)
            yield Published(
                device=row["device"],
                board=board,
                network=network,
                runtime=row["runtime"],
                dtype=dtype,
                threads=row["threads"],
                ms=ms,
                fit=row.get("fit", False) and dtype == "fp32",
                features=total_features(ops, on, winograd=row["runtime"] == "ncnn"),
                overhead=sum(overhead_ms(op, on) for op in ops),
            )


def profile_at(device: str, ghz: float | None) -> DeviceProfile:
    """Return a packaged profile, its cores at another clock where one is given."""
    found = profile(device)
    if ghz is None:
        return found
    return replace(found, cluster=tuple(replace(c, ghz=ghz) for c in found.cluster))


def as_dtype(ops: Sequence[Op], dtype: str) -> tuple[Op, ...]:
    """Return 32-bit operations as the same ones in another number format."""
    size = DTYPES[dtype]
    return tuple(
        replace(
            op,
            dtype=dtype,
            weight_bytes=op.weight_bytes * size // 4,
            activation_bytes=op.activation_bytes * size // 4,
        )
        for op in ops
    )


def fit(entries: Sequence[Published]) -> Coefficients:
    """Return the coefficients of least squared relative error, each at least its LEAST.

    Exact: with five columns every set of free coefficients can be tried.
    """
    times = np.array([e.ms for e in entries])
    columns: Array = np.array([e.features for e in entries]) / times[:, None]
    least = np.array(LEAST)
    rest = 1 - np.array([e.overhead for e in entries]) / times - columns @ least
    best, found = float(rest @ rest), np.zeros(len(LEAST))
    for count in range(1, len(LEAST) + 1):
        for free in map(list, combinations(range(len(LEAST)), count)):
            values = np.linalg.lstsq(columns[:, free], rest, rcond=None)[0]
            off = columns[:, free] @ values - rest
            if (values >= 0).all() and float(off @ off) < best:
                best, found = float(off @ off), np.zeros(len(LEAST))
                found[free] = values
    return tuple(float(c) for c in least + found)


def calibration_text() -> str:
    """Return the text of ``calibration.toml``."""
    lines = [
        "# Written by `python -m benchmarks.estimates.fit` from published.toml.",
        f'model = "{MODEL}"',
    ]
    table = published()
    for threads in sorted({e.threads for e in table if e.fit}):
        entries = [e for e in table if e.fit and e.threads == threads]
        lines += ["", "[[coefficients]]", f"threads = {threads}", f"values = {len(entries)}"]
        lines += [f"{n} = {c:.4f}" for n, c in zip(FEATURES, fit(entries), strict=True)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(calibration_text())
