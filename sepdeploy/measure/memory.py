"""Memory and loading time of an artifact, each in a fresh child process."""

from __future__ import annotations

import os

from sepdeploy.measure.child import run_job
from sepdeploy.measure.summary import summarize
from sepdeploy.metrics import measured
from sepdeploy.records import Kind, Measurement


def measure_memory(
    path: str | os.PathLike[str],
    runtime: str,
    threads: int = 1,
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
        batch: Samples per run.
        repeats: Number of processes.

    Raises:
        BadInput: The file is not usable.
        Missing: The runtime is not installed.
    """
    job = {
        "mode": "memory",
        "runtime": runtime,
        "threads": threads,
        "model": os.fspath(path),
        "batch": batch,
    }
    results = [run_job(job) for _ in range(max(1, repeats))]
    shared = {"batch": batch, "threads": threads}
    peaks = [float(r["peak_rss_bytes"]) for r in results]
    loads = [float(r["load_ms"]) for r in results]
    middle = results[sorted(range(len(peaks)), key=peaks.__getitem__)[len(peaks) // 2]]
    peak = measured(
        "peak_rss_bytes",
        int(middle["peak_rss_bytes"]),
        Kind.HOST,
        n=len(peaks),
        samples=tuple(peaks),
        details={
            **shared,
            "before_bytes": int(middle["rss_before_bytes"]),
            "loaded_bytes": int(middle["rss_loaded_bytes"]),
            "after_bytes": int(middle["rss_after_bytes"]),
        },
    )
    load = summarize(loads)
    loading = measured(
        "load_ms",
        load.median,
        Kind.HOST,
        n=load.n,
        samples=tuple(loads),
        details={**shared, "mad": load.mad, "first_run_ms": float(middle["first_run_ms"])},
    )
    return peak, loading
