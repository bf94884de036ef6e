"""The noise of a machine: how far two timings of one and the same file lie apart."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sepdeploy.measure.latency import Timing, time_models
from sepdeploy.measure.statistics import noise_floor
from sepdeploy.metrics import measured
from sepdeploy.records import Kind, Measurement

RUNS = 3  # fresh processes; the spread between them is what a second bench would see


def measure_noise(
    path: str | os.PathLike[str], runtime: str, *, timing: Timing | None = None
) -> Measurement:
    """Measure ``noise_floor`` by timing an artifact in turns with itself (A/A rounds).

    Returns:
        ``value`` is the relative difference between two separate runs that noise alone explains,
        ``interleaved`` beside it the one between sides timed by turns.

    Raises:
        BadInput: The file is not usable.
        Missing: The runtime is not installed.
    """
    timing = timing or Timing(samples_per_round=10)
    runs = []
    for _ in range(RUNS):
        times = time_models({"a": path, "b": path}, runtime, timing)
        a, b = (_in_rounds(m.samples_ms, times.rounds) for m in times.models)
        runs.append((a, b))
    floor = noise_floor(runs)
    return measured(
        "noise_floor",
        floor.separate,
        Kind.HOST,
        n=sum(len(a) for a, _ in runs),
        details={
            "interleaved": floor.interleaved,
            "batch": timing.batch,
            "threads": timing.threads,
            "runs": RUNS,
        },
    )


def _in_rounds(samples: Sequence[float], rounds: int) -> list[Sequence[float]]:
    size = len(samples) // rounds
    return [samples[i * size : (i + 1) * size] for i in range(rounds)]
