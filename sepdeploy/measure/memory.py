"""Memory and loading time of an artifact, each in a fresh child process."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from sepdeploy.jobs import Answer, Job
from sepdeploy.measure.child import run_job
from sepdeploy.measure.summary import summarize
from sepdeploy.metrics import measured
from sepdeploy.records import Kind, Measurement


def measure_memory(
    path: str | os.PathLike[str],
    runtime: str,
    threads: int = 1,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    *,
    batch: int = 1,
    repeats: int = 3,
) -> tuple[Measurement, Measurement]:
    """Measure ``peak_rss_bytes`` and ``load_ms`` of an artifact.

    Every repeat is a process of its own, because a runtime does not give memory back. The peak
    includes the interpreter and the runtime (``before_bytes`` beside it says how much that is);
    the file is in the page cache from the second repeat on.

    Args:
        path: The artifact.
        runtime: A name of ``runtimes.RUNTIMES``.
        threads: Threads of the runtime.
        shapes: Open sizes of inputs, by their names.
        batch: Samples per run.
        repeats: Number of processes.

    Raises:
        BadInput: The file is not usable.
        Missing: The runtime is not installed.
    """
    job = Job("memory", runtime, {"artifact": Path(path)}, {"batch": batch}, threads)
    answers = [run_job(job.fixed(shapes or {})) for _ in range(max(1, repeats))]
    peak, load = memory_pair(answers, Kind.HOST, {"batch": batch, "threads": threads})
    return peak, load


def memory_pair(
    answers: Sequence[Answer], kind: Kind, shared: Mapping[str, int] | None
) -> tuple[Measurement, Measurement]:
    """Return ``peak_rss_bytes`` and ``load_ms`` from answers of a place with a clock.

    Args:
        answers: Of one process each.
        kind: How they were obtained.
        shared: Details of both; None gives the plain numbers of a single process.
    """
    peaks = [float(a.memory["peak"]) for a in answers]
    times = [a.times for a in answers if a.times is not None]
    loads = [t.load_ms for t in times]
    at = sorted(range(len(peaks)), key=peaks.__getitem__)[len(peaks) // 2]
    middle = answers[at].memory
    if shared is None:
        return measured("peak_rss_bytes", middle["peak"], kind), measured(
            "load_ms", loads[at], kind
        )
    peak = measured(
        "peak_rss_bytes",
        middle["peak"],
        kind,
        n=len(peaks),
        samples=tuple(peaks),
        details={
            **shared,
            "before_bytes": middle["before"],
            "loaded_bytes": middle["loaded"],
            "after_bytes": middle["after"],
        },
    )
    load = summarize(loads)
    loading = measured(
        "load_ms",
        load.median,
        kind,
        n=load.n,
        samples=tuple(loads),
        details={**shared, "mad": load.mad, "first_run_ms": times[at].first_run_ms},
    )
    return peak, loading
