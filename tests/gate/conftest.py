"""Builders of reports, small enough to be read in a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sepdeploy.records import (
    ArtifactRef,
    BenchReport,
    Kind,
    Measurement,
    Result,
    RuntimeRef,
)

QEMU = {"name": "qemu-aarch64", "version": "7.2.22", "libc": "2.36", "plugin": 1}


def result(
    *measurements: Measurement,
    artifact: str = "demo/kron.onnx",
    device: dict[str, Any] | str = "rpi4",
    runtime: str = "onnxruntime",
    version: str = "1.31.1",
    threads: int = 1,
    precision: str = "none",
) -> Result:
    """One artifact on one device."""
    facts = {"id": device} if isinstance(device, str) else device
    return Result(
        facts,
        ArtifactRef(artifact, "0" * 64, "onnx", "standard", precision),
        RuntimeRef(runtime, version, threads),
        measurements,
    )


def report(*measurements: Measurement, **names: Any) -> BenchReport:
    """A report of one result."""
    return BenchReport({"version": "0.1.0"}, {}, (result(*measurements, **names),))


def count(metric: str, value: float, kind: Kind = Kind.STATIC, **details: Any) -> Measurement:
    return Measurement(metric, value, "B", kind, details=details)


def outcomes(
    right: int,
    n: int = 1000,
    *,
    metric: str = "adversarial_accuracy",
    kind: Kind = Kind.HOST,
    samples: tuple[float, ...] | None = None,
    **details: Any,
) -> Measurement:
    """An accuracy whose first images are the right ones."""
    values = (1.0,) * right + (0.0,) * (n - right) if samples is None else samples
    settings: dict[str, Any] = {"images_sha256": "ab" * 32}
    if metric == "adversarial_accuracy":
        settings |= {"attack": "pgd-40", "eps": 0.1, "norm": "linf", "steps": 40, "restarts": 1}
    return Measurement(
        metric,
        sum(values) / len(values),
        "",
        kind,
        n=len(values),
        samples=values,
        details=settings | details,
    )


def latency(samples: Any, kind: Kind = Kind.MEASURED, **details: Any) -> Measurement:
    values = tuple(float(s) for s in samples)
    middle = sorted(values)[len(values) // 2]
    return Measurement(
        "latency_ms",
        middle,
        "ms",
        kind,
        n=len(values),
        samples=values,
        details={"batch": 1} | details,
    )


def by_turns(old: Any, new: Any, kind: Kind = Kind.HOST, **details: Any) -> Measurement:
    """Interleaved rounds; each side is a list of rounds."""
    flat = [[float(v) for r in side for v in r] for side in (old, new)]
    middle = sorted(flat[1])[len(flat[1]) // 2]
    return Measurement(
        "latency_ms",
        middle,
        "ms",
        kind,
        n=len(flat[1]),
        samples=tuple(flat[1]),
        details={
            "batch": 1,
            "interleaved": True,
            "against": {"path": "old.onnx", "sha256": "1" * 64},
            "rounds": len(old),
            "old_samples": flat[0],
            "new_samples": flat[1],
        }
        | details,
    )


class Build:
    """The builders of this file, for tests that ask for them."""

    report = staticmethod(report)
    result = staticmethod(result)
    count = staticmethod(count)
    outcomes = staticmethod(outcomes)
    latency = staticmethod(latency)
    by_turns = staticmethod(by_turns)
    qemu = QEMU


@pytest.fixture(scope="session")
def build() -> type[Build]:
    return Build


@pytest.fixture(scope="session")
def judge() -> Callable[..., Any]:
    """Compare two reports of one measurement each and return the item."""
    from sepdeploy.gate import Rules, check, make_baseline

    def compare(
        old: Measurement, new: Measurement, rules: Rules | None = None, **names: Any
    ) -> Any:
        baseline = make_baseline(report(old, **names))
        items = check(report(new, **names), baseline, rules or Rules()).items
        assert len(items) == 1
        return items[0]

    return compare
