"""What a model weighs in memory, and how much a file may take."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from sepdeploy.runtimes.runner.contract import Result
from sepdeploy.runtimes.runner.job import Job, load_model, native_calls, runnable
from sepdeploy.runtimes.runner.table import adapter


def resident() -> tuple[int, int]:
    """Return (peak, current) resident bytes of this process.

    From ``/proc/self/status`` (VmHWM, VmRSS); elsewhere the peak comes from getrusage, twice.
    """
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        return (
            int(fields["VmHWM"].split()[0]) * 1024,
            int(fields["VmRSS"].split()[0]) * 1024,
        )
    except (OSError, KeyError, ValueError, IndexError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit
        return peak, peak


def job_memory(job: Job) -> Result:
    """Load the model once, run it, and report time to load and resident memory in bytes."""
    adapter(job.runtime).prepare(job.runtime)  # an import is no part of loading a model
    _, before = resident()
    start = time.perf_counter_ns()
    model = load_model(job, job.model)
    load_ms = (time.perf_counter_ns() - start) / 1e6
    _, loaded = resident()
    batch = model.fixed or job.batch or 1
    start = time.perf_counter_ns()
    run, inputs, _ = runnable(model, batch, seed=0)
    first_ms = (time.perf_counter_ns() - start) / 1e6
    for _ in range(job.runs - 1):
        run(inputs)
    peak, after = resident()
    return {
        "version": model.version,
        "load_ms": load_ms,
        "first_run_ms": first_ms,
        "peak_rss_bytes": peak,
        "rss_before_bytes": before,
        "rss_loaded_bytes": loaded,
        "rss_after_bytes": after,
        "batch": batch,
        **native_calls(job, [model]),
    }


def limit_memory(limit: int) -> None:
    """Keep a hostile file from taking all memory of the machine."""
    if limit > 0:
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_AS)  # may only be lowered
        limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
