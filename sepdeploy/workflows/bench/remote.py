"""MEASURED numbers of an artifact: the runner's jobs on the device, between two looks at it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepdeploy import measure
from sepdeploy.codec import to_json
from sepdeploy.devices import DeviceProfile
from sepdeploy.devices.benchmark_model import run_benchmark_model
from sepdeploy.devices.bundle import open_bundle
from sepdeploy.devices.bundle.launch import bundle_launcher
from sepdeploy.devices.facts import read_facts
from sepdeploy.devices.judgement import big_cores, require_target
from sepdeploy.devices.measured import (
    DeviceRun,
    Launcher,
    kind_of,
    program_launcher,
    python_launcher,
)
from sepdeploy.devices.measured import measure as run_jobs
from sepdeploy.devices.sustained import sample_times, sustained
from sepdeploy.devices.transports.base import Transport
from sepdeploy.errors import SepdeployError
from sepdeploy.measure.accuracy import accuracy
from sepdeploy.measure.latency import Timing, latency_pair
from sepdeploy.metrics import measured
from sepdeploy.programs import processor_family
from sepdeploy.records import Measurement, Notify
from sepdeploy.runtimes.packing import write_runner
from sepdeploy.workflows.bench.judging import JudgingSet
from sepdeploy.workflows.bench.options import BenchOptions

ACCURACY_BATCH = 32
BENCHMARK_MODEL = "benchmark_model"  # Google's program, recognised by its name


@dataclass(frozen=True)
class RemoteJobs:
    """What is to be measured of one artifact.

    ``dense`` is the dense reference file, or None with the reason in ``why_no_dense``.
    """

    path: Path
    runtime: str
    judged: tuple[JudgingSet, ...]
    dense: Path | None
    why_no_dense: str
    options: BenchOptions


@dataclass(frozen=True)
class Remote:
    """What the device gave; ``error`` says why it is incomplete or void."""

    measurements: tuple[Measurement, ...]
    device: dict[str, Any] = field(default_factory=dict)
    version: str = "unknown"
    notes: tuple[str, ...] = ()
    error: SepdeployError | None = None


def measure_remotely(
    transport: Transport, profile: DeviceProfile, jobs: RemoteJobs, notify: Notify
) -> Remote:
    """Measure an artifact over a transport; what was finished before a failure is kept.

    Raises:
        BadInput: The device is another one than its profile says.
        Missing: It cannot be reached, or neither Python nor the compiled runner can be used.
    """
    program = jobs.options.runner
    if program is not None and program.name.startswith(BENCHMARK_MODEL):
        return _by_benchmark_model(transport, profile, program, jobs)
    timing = _timing(jobs.options)
    with measure.scratch() as folder:
        launcher = choose_launcher(transport, profile, program, folder)
        listed = list(_jobs(jobs, timing, folder))
        run = run_jobs(
            transport,
            launcher,
            listed,
            profile=profile,
            steady=not jobs.options.sustained,
            on_job=lambda name: notify(f"{profile.id}: {jobs.path.name}: {name}"),
        )
        found = list(_measurements(run, jobs, timing, folder))
    version = next((str(r["version"]) for r in run.results.values() if "version" in r), "unknown")
    return Remote(tuple(found), to_json(run.device()), version, run.notes, run.error)


def _by_benchmark_model(
    transport: Transport, profile: DeviceProfile, program: Path, jobs: RemoteJobs
) -> Remote:
    """Time a TFLite file with Google's program, which gives an average and nothing else."""
    before = read_facts(transport)
    require_target(before, runtime="litert", where=transport.where, profile=profile)
    threads = jobs.options.threads
    times = run_benchmark_model(
        transport, program, jobs.path, threads=threads, cores=big_cores(before, threads)
    )
    kind = kind_of(transport, before)
    details = {"statistic": "mean", "batch": 1, "threads": threads, "program": program.name}
    found = (
        measured("latency_ms", times.mean_ms, kind, n=times.runs, details=details),
        measured("load_ms", times.init_ms, kind, details={"program": program.name}),
    )
    note = f"{program.name} gives a mean without samples, and no accuracy"
    return Remote(found, to_json(transport.facts()), "unknown", (note,))


def choose_launcher(
    transport: Transport, profile: DeviceProfile, program: Path | None, folder: Path
) -> Launcher:
    """Return what is started on the device: the user's program, Python, or the compiled runner."""
    if program is not None:
        return program_launcher(program)
    facts = read_facts(transport)
    if transport.name != "adb" and _has_python(transport, profile):
        return python_launcher(write_runner(folder), profile.transport.python or "python3")
    return bundle_launcher(
        open_bundle(processor_family(facts.machine), setup=f"sepdeploy devices setup {profile.id}")
    )


def _has_python(transport: Transport, profile: DeviceProfile) -> bool:
    python = profile.transport.python or "python3"
    return transport.run([python, "-c", "import numpy"], timeout=60).rc == 0


def _timing(options: BenchOptions) -> Timing:
    if options.sustained:
        return Timing(
            batch=options.batch,
            threads=options.threads,
            min_seconds=options.sustained,
            max_seconds=options.sustained + 60,
        )
    return Timing(batch=options.batch, threads=options.threads, min_seconds=3.0)


def _jobs(jobs: RemoteJobs, timing: Timing, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    common = {"runtime": jobs.runtime, "threads": jobs.options.threads}
    yield "memory", {"mode": "memory", "model": str(jobs.path), "batch": timing.batch, **common}
    models = [{"name": "artifact", "path": str(jobs.path)}]
    if jobs.dense is not None and not jobs.options.sustained:
        models.append({"name": "dense", "path": str(jobs.dense)})
    yield "latency", {"mode": "latency", "models": models, **vars(timing), **common}
    for name, images in _image_sets(jobs):
        np.save(folder / f"{name}.npy", images, allow_pickle=False)
        yield (
            name,
            {
                "mode": "run",
                "model": str(jobs.path),
                "inputs": str(folder / f"{name}.npy"),
                "output": str(folder / f"{name}-logits.npy"),
                "batches": [min(ACCURACY_BATCH, len(images))],
                **common,
            },
        )


def _image_sets(jobs: RemoteJobs) -> Iterator[tuple[str, NDArray[np.float32]]]:
    if jobs.judged:
        yield "clean", jobs.judged[0].images
    for index, judging in enumerate(jobs.judged):
        if judging.adversarial is not None:
            yield f"attack{index}", judging.adversarial


def _measurements(
    run: DeviceRun, jobs: RemoteJobs, timing: Timing, folder: Path
) -> Iterator[Measurement]:
    void = {"throttled": True, "reason": run.error.message} if run.error is not None else {}
    if "memory" in run.results:
        result = run.results["memory"]
        yield measured("peak_rss_bytes", int(result["peak_rss_bytes"]), run.kind)
        yield measured("load_ms", float(result["load_ms"]), run.kind, details=void)
    if "latency" in run.results:
        yield from _latency(run, jobs, timing, void)
    yield from _accuracies(run, jobs, folder)


def _accuracies(run: DeviceRun, jobs: RemoteJobs, folder: Path) -> Iterator[Measurement]:
    """Judge the logits that the device gave."""
    judged = [("clean", "clean_accuracy", j, j.origin()) for j in jobs.judged[:1]]
    judged += [
        (f"attack{index}", "adversarial_accuracy", judging, judging.attacked_origin())
        for index, judging in enumerate(jobs.judged)
    ]
    for name, metric, judging, details in judged:
        if name in run.results:
            logits = np.load(folder / f"{name}-logits.npy", allow_pickle=False)[0]
            yield accuracy(
                metric, logits, judging.images, judging.labels, run.kind,
                details, where=jobs.path,
            )  # fmt: skip


def _latency(
    run: DeviceRun, jobs: RemoteJobs, timing: Timing, void: dict[str, Any]
) -> Iterator[Measurement]:
    result = run.results["latency"]
    samples = {m["name"]: [float(s) for s in m["samples_ms"]] for m in result["models"]}
    pair = latency_pair(samples, result, timing, run.kind, why_no_dense=jobs.why_no_dense)
    extra: dict[str, Any] = dict(void)
    if jobs.options.sustained:
        times = sample_times(result, float(result.get("seconds", jobs.options.sustained)))
        extra["sustained"] = to_json(sustained(times[0], samples["artifact"]))
    for found in pair:
        yield replace(found, details=found.details | extra)
