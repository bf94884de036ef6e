"""Latencies on a device that nobody measured: of an artifact, and against its dense form."""

from __future__ import annotations

import math
from pathlib import Path

from sepdeploy.devices import DeviceProfile
from sepdeploy.devices.estimate import Estimate, estimate, fitting, load_anchors
from sepdeploy.errors import SepdeployError
from sepdeploy.measure.operations import artifact_operations
from sepdeploy.metrics import measured
from sepdeploy.records import Kind, Measurement, Result
from sepdeploy.workflows.bench.measuring import Task

ONE = {"batch": 1}


def estimated(
    device: DeviceProfile, threads: int, host: Result, task: Task
) -> tuple[Measurement, ...]:
    """Return the estimated latencies, or their absence with the reason.

    Args:
        device: One with figures to estimate from.
        threads: Of the runtime.
        host: What is known of the artifact on this machine.
        task: The artifact and its dense form.
    """
    if task.open_sizes:
        return (_absent("latency_ms", f"{task.path.name} leaves sizes open"),)

    def made(path: Path, sha256: str) -> Estimate:
        return estimate(
            artifact_operations(path),
            device,
            threads=threads,
            runtime=task.runtime,
            anchors=fitting(
                load_anchors(device.id), device, runtime=host.runtime.name, threads=threads
            ),
            model_sha256=sha256,
        )

    try:
        own = made(task.path, host.artifact.sha256)
    except SepdeployError as error:
        return (_absent("latency_ms", error.message),)
    latency = measured(
        "latency_ms",
        own.ms,
        Kind.ESTIMATED,
        n=0,
        ci=(own.low, own.high),
        details=own.details() | ONE,
    )
    if task.dense is None:
        return latency, _absent("latency_vs_dense", task.why_no_dense)
    try:
        return latency, _ratio(own, made(task.dense, ""))
    except SepdeployError as error:
        return latency, _absent("latency_vs_dense", error.message)


def _ratio(own: Estimate, dense: Estimate) -> Measurement:
    """Return how many times longer the dense form takes, the two errors taken as independent."""
    factor = math.exp(math.hypot(math.log(own.factor), math.log(dense.factor)))
    value = dense.ms / own.ms
    details = {
        **ONE,
        "threads": own.threads,
        "dense_ms": dense.ms,
        "dense_low": dense.low,
        "dense_high": dense.high,
        "dense_calibration": dense.calibration,
        "calibration": own.calibration,
        "factor": factor,
        "model": own.model,
    }
    interval = (value / factor, value * factor)
    return measured("latency_vs_dense", value, Kind.ESTIMATED, n=0, ci=interval, details=details)


def _absent(metric: str, reason: str) -> Measurement:
    return measured(metric, None, Kind.ESTIMATED, n=0, details={"reason": reason, **ONE})
