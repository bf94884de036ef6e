"""Latencies on a device that nobody measured: of an artifact, and against its dense form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from sepdeploy.devices import DeviceProfile
from sepdeploy.devices.estimate import (
    CycleEstimate,
    Estimate,
    Work,
    estimate,
    fitting,
    load_anchors,
    time_of,
)
from sepdeploy.devices.estimate.cycles import MODEL as CYCLES
from sepdeploy.errors import SepdeployError
from sepdeploy.measure.operations import artifact_operations
from sepdeploy.metrics import measured
from sepdeploy.records import Kind, Measurement, Result
from sepdeploy.workflows.bench.measuring import Task

ONE = {"batch": 1}


@dataclass(frozen=True)
class Latency:
    """An estimate by both models: ``roofline`` always, ``cycles`` where the file was emulated."""

    roofline: Estimate
    cycles: CycleEstimate | None

    @property
    def by_cycles(self) -> bool:
        """Whether cycles are the value: not where the roofline was shown to be nearer."""
        return self.cycles is not None and self.roofline.calibration not in (
            "calibrated",
            "anchored",
        )

    @property
    def ms(self) -> float:
        """Milliseconds."""
        return self.cycles.ms if self.cycles and self.by_cycles else self.roofline.ms

    @property
    def ci(self) -> tuple[float, float]:
        """The interval."""
        return self.ms / self.roofline.factor, self.ms * self.roofline.factor

    def details(self) -> dict[str, object]:
        """Return what stands beside the value; each model's own value under its name."""
        found = self.roofline.details()
        if self.cycles is None:
            return found
        roofline = {key: found[key] for key in ("model", "low", "high", "parts")}
        found["roofline"] = {"ms": self.roofline.ms, **roofline}
        found["cycles"] = self.cycles.details()
        if self.by_cycles:
            scale = self.ms / self.roofline.ms
            found["model"], found["parts"] = CYCLES, self.cycles.details()["parts"]
            found["low"], found["high"] = self.ci
            found["layers"] = [
                {"name": x.name, "ms": x.ms * scale, "macs": x.macs, "fitted": x.fitted}
                for x in self.roofline.layers
            ]
        return found


def estimated(
    device: DeviceProfile,
    threads: int,
    host: Result,
    task: Task,
    executed: tuple[Work | None, Work | None] = (None, None),
) -> tuple[Measurement, ...]:
    """Return the estimated latencies, or their absence with the reason.

    Args:
        device: One with figures to estimate from.
        threads: Of the runtime.
        host: What is known of the artifact on this machine.
        task: The artifact and its dense form.
        executed: What each of the two costs in cycles, where that is known.
    """
    if task.open_sizes:
        return (_absent("latency_ms", f"{task.path.name} leaves sizes open"),)

    def made(path: Path, sha256: str, work: Work | None) -> Latency:
        roofline = estimate(
            artifact_operations(path),
            device,
            threads=threads,
            runtime=task.runtime,
            anchors=fitting(
                load_anchors(device.id), device, runtime=host.runtime.name, threads=threads
            ),
            model_sha256=sha256,
        )
        return Latency(roofline, None if work is None else time_of(work, device, threads))

    own_work, dense_work = executed
    try:
        own = made(task.path, host.artifact.sha256, own_work)
    except SepdeployError as error:
        return (_absent("latency_ms", error.message),)
    details = own.details() | ONE
    latency = measured("latency_ms", own.ms, Kind.ESTIMATED, n=0, ci=own.ci, details=details)
    if task.dense is None:
        return latency, _absent("latency_vs_dense", task.why_no_dense)
    try:
        dense = made(task.dense, "", dense_work)
    except SepdeployError as error:
        return latency, _absent("latency_vs_dense", error.message)
    if own.by_cycles != dense.by_cycles:  # one model's errors for both
        own, dense = Latency(own.roofline, None), Latency(dense.roofline, None)
    return latency, _ratio(own, dense)


def _ratio(own: Latency, dense: Latency) -> Measurement:
    """Return how many times longer the dense form takes, the two errors taken as independent."""
    factor = math.exp(math.hypot(math.log(own.roofline.factor), math.log(dense.roofline.factor)))
    value = dense.ms / own.ms
    details = {
        **ONE,
        "threads": own.roofline.threads,
        "own_ms": own.ms,
        "dense_ms": dense.ms,
        "dense_low": dense.ci[0],
        "dense_high": dense.ci[1],
        "dense_calibration": dense.roofline.calibration,
        "calibration": own.roofline.calibration,
        "factor": factor,
        "model": CYCLES if own.by_cycles else own.roofline.model,
    }
    interval = (value / factor, value * factor)
    return measured("latency_vs_dense", value, Kind.ESTIMATED, n=0, ci=interval, details=details)


def _absent(metric: str, reason: str) -> Measurement:
    return measured(metric, None, Kind.ESTIMATED, n=0, details={"reason": reason, **ONE})
