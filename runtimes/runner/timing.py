"""Timing of models in turns."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

from sepdeploy.runtimes.runner.contract import Result, RunnerError
from sepdeploy.runtimes.runner.job import (
    Job,
    Runnable,
    kernels,
    load_model,
    native_calls,
    runnable,
)

MOST_RUNS = 1 << 16  # in one timed block


Clock = Callable[[], int]


def _block_size(run: Callable[[Any], Any], batch: Any, block_us: float, clock: Clock) -> int:
    """Return how many runs make a block of about ``block_us`` microseconds.

    The least of several tries decides, so that an interruption does not make the block too short.
    """
    runs = 1
    while True:
        spent = min(_spent_us(run, batch, runs, clock) for _ in range(3))
        if spent >= block_us / 2 or runs >= MOST_RUNS:
            return min(MOST_RUNS, max(1, round(runs * block_us / max(spent, 0.01))))
        runs *= 2


def _spent_us(run: Callable[[Any], Any], batch: Any, runs: int, clock: Clock) -> float:
    start = clock()
    for _ in range(runs):
        run(batch)
    return (clock() - start) / 1000


def job_latency(job: Job) -> Result:
    """Time several models in turns; every sample is the mean of one block of runs."""
    models = [load_model(job, m.path) for m in job.models]
    batch = job.batch or 1
    runs = [runnable(model, batch, job.seed) for model in models]
    if len({r.takes for r in runs}) != 1:
        shapes = ", ".join(str(r.takes) for r in runs)
        raise RunnerError("bad-input", f"the models take different inputs: {shapes}")
    clock: Clock = time.process_time_ns if job.processor else time.perf_counter_ns
    sizes: list[int] = []
    for run, inputs, _ in runs:
        for _ in range(max(1, job.warmup)):
            run(inputs)
        sizes.append(_block_size(run, inputs, job.block_us, clock))
    samples: list[list[float]] = [[] for _ in models]
    rounds = _rounds(job, runs, sizes, samples, clock)
    timed = [
        {
            "name": named.name,
            "path": named.path,
            "samples_ms": s,
            "block_runs": k,
            **kernels(job, named.path, m),
        }
        for named, s, k, m in zip(job.models, samples, sizes, models)  # noqa: B905  # Python 3.9
    ]
    return {
        "version": models[0].version,
        "models": timed,
        "batch": batch,
        "rounds": rounds,
        "warmup": job.warmup,
        "timer": "process_time_ns" if job.processor else "perf_counter_ns",
        **native_calls(job, models),
    }


def _rounds(
    job: Job,
    runs: list[Runnable],
    sizes: list[int],
    samples: list[list[float]],
    timer: Clock,
) -> int:
    """Fill ``samples`` round by round; return the number of rounds."""
    min_ns, max_ns = job.min_seconds * 1e9, job.max_seconds * 1e9
    clock = time.perf_counter_ns
    order = list(range(len(runs)))
    rounds = 0
    collecting = gc.isenabled()
    gc.disable()
    try:
        began = clock()
        while True:
            for i in order:
                (run, inputs, _), repeat = runs[i], range(sizes[i])
                # The other model has emptied the caches; these runs fill them again.
                for _ in range(min(3, sizes[i])):
                    run(inputs)
                for _ in range(job.samples_per_round):
                    start = timer()
                    for _ in repeat:
                        run(inputs)
                    samples[i].append((timer() - start) / sizes[i] / 1e6)
            order.reverse()
            rounds += 1
            spent = clock() - began
            if (rounds >= job.min_rounds and spent >= min_ns) or (rounds >= 3 and spent >= max_ns):
                return rounds
    finally:
        if collecting:
            gc.enable()
