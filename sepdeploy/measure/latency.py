"""Latency of an artifact, always timed in turns with something to compare it with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sepdeploy.errors import AT_LEAST_ONE, BadInput
from sepdeploy.files import sha256_file
from sepdeploy.jobs import Clocked, Job
from sepdeploy.measure.child import run_job
from sepdeploy.measure.host import available_cores, host_load
from sepdeploy.measure.summary import LOW, ratio_interval, summarize
from sepdeploy.metrics import measured
from sepdeploy.records import Kind, Measurement

STATISTIC = f"p{LOW}"
# What spoils the times of a host: processes per core, median over low percentile, half interval.
BUSY, SPREAD, WIDE = 1.5, 1.5, 0.1
PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Timing:
    """How to time.

    Attributes:
        batch: Samples per run.
        threads: Threads of the runtime.
        warmup: Untimed runs before the first round.
        min_rounds: At least so many rounds, in each of which every model has its turn.
        min_seconds: At least so long, over all rounds.
        max_seconds: Stop after the round in which this passes, once three rounds are done.
        samples_per_round: Samples that each model gives in a round.
        block_us: One sample is the mean of a block of runs of about this many microseconds, so
            that runs far below the clock's resolution are resolved.
        processor: Count the processor's time instead of the clock's; on this machine alone.
        shapes: Open sizes of inputs, by their names.
    """

    batch: int = 1
    threads: int = 1
    warmup: int = 5
    min_rounds: int = 30
    min_seconds: float = 1.0
    max_seconds: float = 60.0
    samples_per_round: int = 1
    block_us: float = 200.0
    processor: bool = False
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = (self.batch, self.threads, self.min_rounds, self.samples_per_round)
        if min(counts) < 1 or self.warmup < 0:
            raise BadInput(
                f"batch, threads, rounds and samples must be at least 1, found {counts}",
                hint=AT_LEAST_ONE,
            )


def time_models(
    models: Mapping[str, PathLike], runtime: str, timing: Timing | None = None
) -> Clocked:
    """Time several artifacts of one input shape in turns, in one child process.

    Args:
        models: Name to path.
        runtime: A name of ``runtimes.RUNTIMES``.
        timing: How; by default batch 1, one thread.

    Returns:
        Samples in milliseconds per run, in time order, as many for each model.

    Raises:
        BadInput: A file is not usable, or they take different inputs.
        Missing: The runtime is not installed.
    """
    timing = timing or Timing()
    times = run_job(latency_job(models, runtime, timing)).times
    assert times is not None  # this machine has a clock
    return times


def latency_job(models: Mapping[str, PathLike], runtime: str, timing: Timing) -> Job:
    """Return the job that times several artifacts in turns."""
    left_out = ("threads", "shapes", *(() if timing.processor else ("processor",)))
    how = {key: value for key, value in vars(timing).items() if key not in left_out}
    paths = {name: Path(path) for name, path in models.items()}
    return Job("latency", runtime, paths, how, timing.threads).fixed(timing.shapes)


def latency_pair(
    times: Clocked,
    timing: Timing,
    kind: Kind,
    *,
    why_no_dense: str = "no dense reference",
) -> tuple[Measurement, Measurement]:
    """Return ``latency_ms`` and ``latency_vs_dense`` from timed samples.

    Args:
        times: Of "artifact" and, where there is one, of "dense".
        timing: How they were timed.
        kind: HOST, or MEASURED on a real device.
        why_no_dense: The reason given where "dense" is absent.
    """
    own, samples = latency_measurement(times, timing, kind), times.samples()
    shared = {"batch": timing.batch, "threads": timing.threads}
    if "dense" not in samples:
        none = {**shared, "reason": why_no_dense}
        return own, measured("latency_vs_dense", None, kind, n=0, details=none)
    reference, artifact = summarize(samples["dense"]), summarize(samples["artifact"])
    here = kind is Kind.HOST
    ratio = measured(
        "latency_vs_dense",
        reference.low / artifact.low if here else reference.median / artifact.median,
        kind,
        n=reference.n,
        ci=ratio_interval(samples["dense"], samples["artifact"], percentile=LOW if here else 50),
        details={
            **shared,
            "dense_ms": reference.low if here else reference.median,
            "dense_mad": reference.mad,
            "rounds": times.rounds,
            **_kernels(times),
            **({"statistic": STATISTIC} if here else {}),
            **_disturbed(times, kind),
        },
    )
    return own, ratio


def latency_measurement(times: Clocked, timing: Timing, kind: Kind) -> Measurement:
    """Return ``latency_ms`` of the first model.

    On a host, which others use as well, the 10th percentile of the rounds; else the median.
    """
    first = times.models[0]
    own = summarize(first.samples_ms)
    here = kind is Kind.HOST
    return measured(
        "latency_ms",
        own.low if here else own.median,
        kind,
        n=own.n,
        ci=own.low_interval if here else own.interval,
        samples=first.samples_ms,
        details={
            "mad": own.mad,
            "p90": own.p90,
            "p99": own.p99,
            "batch": timing.batch,
            "threads": timing.threads,
            "warmup": timing.warmup,
            "rounds": times.rounds,
            "block_runs": first.block_runs,
            **_kernels(times),
            **({"statistic": STATISTIC, "median": own.median} if here else {}),
            **_disturbed(times, kind),
        },
    )


def _disturbed(times: Clocked, kind: Kind) -> dict[str, str]:
    """Return why the times of a host are not to be trusted; nothing where they are."""
    if kind is not Kind.HOST:
        return {}
    found = [summarize(m.samples_ms) for m in times.models]
    wide = max((s.low_interval[1] - s.low_interval[0]) / 2 / s.low for s in found)
    spread = max(s.median / s.low for s in found)
    load, cores = host_load() or 0.0, available_cores()
    reasons = []
    if load > BUSY * cores:
        reasons.append(f"load {load:.1f} on {cores} cores")
    if spread > SPREAD:
        reasons.append(f"the median is {spread:.1f} times the 10th percentile")
    if wide > WIDE:
        reasons.append(f"the interval is ±{100 * wide:.0f} %")
    return {"disturbed": ", ".join(reasons)} if reasons else {}


def _kernels(times: Clocked) -> dict[str, str]:
    """Return what ran the custom nodes of the first model, nothing where no kernels did."""
    return {"kernels": times.models[0].kernels} if times.models[0].kernels else {}


def compare_latency(
    new: PathLike, old: PathLike, runtime: str, *, timing: Timing | None = None
) -> Measurement:
    """Measure ``latency_ms`` of a new artifact in turns with an old one.

    The result carries both series and the number of rounds, so that the gate can compare what was
    measured under the same conditions; its value is the new one's.

    Raises:
        BadInput: A file is not usable, or they take different inputs.
        Missing: The runtime is not installed.
    """
    timing = timing or Timing()
    times = time_models({"new": new, "old": old}, runtime, timing)
    plain, samples = latency_measurement(times, timing, Kind.HOST), times.samples()
    details = {
        **plain.details,
        "interleaved": True,
        "against": {"path": Path(old).name, "sha256": sha256_file(Path(old))},
        "old_samples": list(samples["old"]),
        "new_samples": list(samples["new"]),
    }
    return replace(plain, details=details)
