"""The published latencies, with what the cost model makes of their networks on those devices."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from benchmarks.estimate.networks import NETWORKS, architecture
from sepdeploy.devices.estimate.calibration import family_of
from sepdeploy.devices.estimate.model import (
    Coefficients,
    Machine,
    cost_ms,
    features,
    machine,
    overhead_ms,
)
from sepdeploy.devices.estimate.op import DTYPES, Op
from sepdeploy.devices.profile import DeviceProfile, profile

HERE = Path(__file__).parent
LOCAL = {"rk3399": str(HERE / "rk3399.toml")}  # devices that no user has asked for
COUNTED = ("base", "fit", "check")


@dataclass(frozen=True)
class Published:
    """One published latency.

    ``board`` tells devices apart that have the same id and another clock; ``use`` says which
    constants it chose: those of "base", the factors of a family of cores ("fit"), or none.
    """

    device: str
    board: str
    family: str
    network: str
    kernels: str
    dtype: str
    threads: int
    ms: float
    use: str
    features: Coefficients
    overhead: float

    @property
    def architecture(self) -> str:
        """What all sizes of its network have in common."""
        return architecture(self.network)

    def predicted(
        self, coefficients: Sequence[float], by: tuple[float, float] = (1.0, 1.0)
    ) -> float:
        """Return the model's latency in milliseconds."""
        return self.overhead + sum(cost_ms(tuple(coefficients), self.features, by))


@cache
def published() -> tuple[Published, ...]:
    """Return the table."""
    lines = (HERE / "published.csv").read_text(encoding="utf-8").splitlines()
    return tuple(_entry(row) for row in csv.DictReader(x for x in lines if x[0] != "#"))


def _entry(row: dict[str, str]) -> Published:
    device = profile_at(row["device"], float(row["ghz"]))
    on = machine(device, int(row["threads"]))
    ops = as_dtype(_network(row["network"]), row["dtype"])
    return Published(
        device=row["device"],
        board=f"{row['device']} {row['ghz']} GHz",
        family=family_of(device.cluster[0].core),
        network=row["network"],
        kernels=row["kernels"],
        dtype=row["dtype"],
        threads=int(row["threads"]),
        ms=float(row["ms"]),
        use=row["use"],
        features=total_features(ops, on, winograd=row["kernels"] == "ncnn"),
        overhead=sum(overhead_ms(op, on) for op in ops),
    )


@cache
def _network(name: str) -> tuple[Op, ...]:
    return NETWORKS[name]()


def total_features(ops: Sequence[Op], on: Machine, *, winograd: bool) -> Coefficients:
    """Return the sums of ``features`` over a network."""
    rows = [features(op, on, winograd=winograd) for op in ops]
    return tuple(sum(column) for column in zip(*rows, strict=True))


@cache
def profile_at(device: str, ghz: float) -> DeviceProfile:
    """Return a device, its fastest cores at another clock where it has no others."""
    found = profile(LOCAL.get(device, device))
    if len(found.cluster) > 1:
        return found
    return replace(found, cluster=(replace(found.cluster[0], ghz=ghz),))


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
