"""Running a model: its logits, its intermediate values, its graph as the runtime sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sepdeploy.runtimes.runner.contract import Array, Result, RunnerError, one_line
from sepdeploy.runtimes.runner.job import Job, load_model, native_calls, read_inputs
from sepdeploy.runtimes.runner.table import adapter


def run_in_batches(model: Any, inputs: Array, batch: int) -> Array:
    """Return the logits of all inputs, run ``batch`` samples at a time.

    A file with a fixed batch size is fed that size, the last batch padded with its own last sample.
    """
    size = model.fixed or batch
    parts = []
    for start in range(0, len(inputs), size):
        part = inputs[start : start + size]
        short = size - len(part)
        if model.fixed and short:
            part = np.concatenate([part, np.repeat(part[-1:], short, axis=0)])
        result = model.run(part)
        parts.append(result[: len(result) - short] if model.fixed and short else result)
    return np.concatenate(parts)


def job_run(job: Job) -> Result:
    """Run all inputs once per batch size."""
    inputs = read_inputs(job)
    model = load_model(job, job.model)
    batches = [len(inputs)] if job.batches is None else list(job.batches)
    if not len(inputs) or not batches or min(batches) < 1:
        raise RunnerError(
            "bad-input", "run needs at least one sample and batch sizes of at least 1"
        )
    logits = np.stack([run_in_batches(model, inputs, b) for b in batches])
    result: Result = {"version": model.version, "batches": batches, "shape": list(logits.shape)}
    result.update(native_calls(job, [model]))
    if job.output:
        with Path(job.output).open("wb") as file:
            np.save(file, logits, allow_pickle=False)
    else:
        result["logits"] = logits.tolist()
    return result


def job_outputs(job: Job) -> Result:
    """Run once by names, on given inputs in the file's order or on made-up ones; write both."""
    model = load_model(job, job.model)
    if job.inputs:
        try:
            with np.load(job.inputs, allow_pickle=False) as given:
                arrays = [given[f"input{i}"] for i in range(len(given.files))]
        except (OSError, ValueError, EOFError, KeyError) as error:
            raise RunnerError("bad-input", f"inputs cannot be read: {one_line(error)}") from error
        if len(arrays) != len(model.inputs):
            told = "; ".join(p.told() for p in model.inputs)
            raise RunnerError("bad-input", f"{job.model}: {len(arrays)} inputs given for {told}")
        feeds = {p.name: a for p, a in zip(model.inputs, arrays)}  # noqa: B905  # Python 3.9
    else:
        feeds = model.feeds(job.batch or 1, job.seed)
    found = {
        name: value
        for name, value in model.run_named(feeds).items()
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
    }
    with Path(job.output).open("wb") as file:
        named = {f"input{i}": a for i, a in enumerate(feeds.values())}
        np.savez(file, **named, **{f"output{i}": a for i, a in enumerate(found.values())})
    return {"version": model.version, "found": list(found)}


def job_values(job: Job) -> Result:
    """Write intermediate values of one run of all inputs."""
    inputs = read_inputs(job)
    names = list(job.names)
    model = load_model(job, job.model, keep_values=True)
    found = model.values(inputs, names)
    with Path(job.output).open("wb") as file:
        np.savez(file, **{f"value{names.index(name)}": value for name, value in found.items()})
    return {"version": model.version, "found": list(found)}


def job_ranges(job: Job) -> Result:
    """Find the smallest and largest value of each named intermediate value over all inputs."""
    inputs = read_inputs(job)
    names = list(job.names)
    model = load_model(job, job.model, keep_values=True)
    batch = model.fixed or job.batch or 16
    ranges: dict[str, list[float]] = {}
    usable = len(inputs) - (len(inputs) % batch if model.fixed else 0)
    for start in range(0, usable, batch):
        for name, value in model.values(inputs[start : start + batch], names).items():
            low, high = float(value.min()), float(value.max())
            before = ranges.get(name, [low, high])
            ranges[name] = [min(low, before[0]), max(high, before[1])]
    return {"version": model.version, "ranges": ranges}


def job_optimize(job: Job) -> Result:
    """Write the graph as the runtime optimises it, its constants in a file beside it."""
    optimize = getattr(adapter(job.runtime), "optimize", None)
    if optimize is None:
        raise RunnerError("bad-input", f"{job.runtime} does not write optimised graphs")
    model = optimize(job.runtime, job.model, job.threads, job.output)
    return {"version": model.version}
