"""The three places where a file is measured: this machine, a device, an emulated core."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sepdeploy import measure
from sepdeploy.codec import to_json
from sepdeploy.devices import DeviceProfile
from sepdeploy.devices.benchmark_model import run_benchmark_model
from sepdeploy.devices.bundle import open_bundle
from sepdeploy.devices.bundle.launch import bundle_launcher
from sepdeploy.devices.emulation import (
    Emulator,
    IllegalInstruction,
    measurements,
    record_blocks,
    runtime_for,
)
from sepdeploy.devices.estimate import Work, parse_blocks, work
from sepdeploy.devices.estimate.calibration import family_of
from sepdeploy.devices.facts import at_home, read_facts
from sepdeploy.devices.failures import PYTHON, unusable_python
from sepdeploy.devices.judgement import big_cores, require_target
from sepdeploy.devices.measured import Launcher, kind_of, program_launcher, python_launcher
from sepdeploy.devices.measured import measure as run_jobs
from sepdeploy.devices.transports.base import Transport
from sepdeploy.errors import SepdeployError
from sepdeploy.files import scratch
from sepdeploy.jobs import Answer
from sepdeploy.measure.latency import Timing
from sepdeploy.measure.proof.parity import compare
from sepdeploy.metrics import measured
from sepdeploy.programs import processor_family
from sepdeploy.records import Kind, Measurement
from sepdeploy.runtimes.packing import write_runner
from sepdeploy.workflows.bench.measuring import ACCURACY_BATCH, SEARCH, Jobs, Place, Taken, Task
from sepdeploy.workflows.bench.options import BenchOptions

Floats = NDArray[np.float32]
BENCHMARK_MODEL = "benchmark_model"  # Google's program, recognised by its name


class HostPlace(Place):
    """This machine: every job in a child process; an error ends the bench."""

    name = "host"
    modes = frozenset({"latency", "run"})  # memory has a row of its own, see ``metrics``
    details: Mapping[str, object] = {"batch": ACCURACY_BATCH, "threads": 1}

    def take(self, jobs: Jobs) -> Taken:
        """Do the jobs in turn."""
        return Taken(Kind.HOST, {name: measure.run_job(job) for name, job in jobs})

    def own(self, task: Task, logits: Floats | None) -> Iterator[Measurement]:
        """Time the file against itself and against an older one, where that was asked for."""
        timing = replace(self.timing(task.options), samples_per_round=10)
        if task.options.calibrate:
            yield measure.measure_noise(task.path, task.runtime, timing=timing)
        against = task.options.against
        if against is not None and against.suffix == task.path.suffix:
            yield measure.compare_latency(task.path, against, task.runtime, timing=timing)


class RemotePlace(Place):
    """A device behind a transport: the jobs between two looks at it.

    Args:
        transport: The way there; it stays open.
        profile: What it should be.
        options: Threads, the user's own runner, and whether it is a sustained run.
        on_job: Told the name of each job as it starts.
    """

    modes = frozenset({"memory", "latency", "run"})  # and searches, where its Python works

    def __init__(
        self,
        transport: Transport,
        profile: DeviceProfile,
        options: BenchOptions,
        on_job: Callable[[str], None],
    ) -> None:
        self.name = profile.id
        self.threads = options.threads
        self._transport = transport
        self._profile = profile
        self._options = options
        self._on_job = on_job
        self._python = usable_python(transport, profile, options)
        if self._python:
            self.modes |= {SEARCH}

    def timing(self, options: BenchOptions) -> Timing:
        """Return how long is timed there."""
        least = options.sustained or 3.0
        most = least + 60 if options.sustained else 60.0
        return replace(super().timing(options), min_seconds=least, max_seconds=most)

    def take(self, jobs: Jobs) -> Taken:
        """Do the jobs; what was finished before a failure is kept."""
        with scratch() as folder:
            run = run_jobs(
                self._transport,
                self._launcher(folder),
                jobs,
                profile=self._profile,
                steady=not self._options.sustained,
                on_job=self._on_job,
            )
        return Taken(run.kind, run.answers, to_json(run.device()), run.notes, run.error)

    def _launcher(self, folder: Path) -> Launcher:
        """Return what is started: the user's program, Python, or the compiled runner."""
        if self._options.runner is not None:
            return program_launcher(self._options.runner)
        if self._python:
            return python_launcher(write_runner(folder), self._python)
        abi = processor_family(read_facts(self._transport).machine)
        return bundle_launcher(open_bundle(abi, setup=f"sepdeploy devices setup {self.name}"))


MOST_UNKNOWN = 0.02  # share of instructions without ports


class EmulatedPlace(Place):
    """The real ARM runtime on a device's core: it counts, and has no clock.

    Args:
        emulator: Open, of the device's core.
        path: The artifact, whose format decides the runtime.
    """

    repeats = False  # it counts instructions, one by one
    modes = frozenset({"run"})  # instructions and memory are counted in ``own``

    def __init__(self, emulator: Emulator, path: Path) -> None:
        self.name = emulator.core
        self.details = emulator.details(runtime_for(path))
        self._emulator = emulator

    def take(self, jobs: Jobs) -> Taken:
        """Do the jobs; an instruction that the core lacks is a finding about the device."""
        answers: dict[str, Answer] = {}
        findings = {}
        for name, job in jobs:
            try:
                answers[name] = self._emulator.run_job(job)
            except IllegalInstruction as error:
                findings[name] = error.message
        return Taken(Kind.EMULATED, answers, self.details, findings=findings)

    def work(self, path: Path, core: str) -> Work | None:
        """Return what one inference costs on a core, None where that cannot be told.

        That is where it cannot be recorded, or uses instructions whose ports nobody has listed.
        """
        try:
            recorded = record_blocks(self._emulator, path).value
            found = recorded and work(parse_blocks(recorded), family_of(core))
        except SepdeployError:
            return None
        return found if found and found.unknown <= MOST_UNKNOWN else None

    def own(self, task: Task, logits: Floats | None) -> Iterator[Measurement]:
        """Count instructions and memory, and compare the clean logits with this machine's."""
        yield from measurements(self._emulator, task.path)
        if not task.judged:
            return
        if logits is None:
            reason = {"reason": f"{self.name} gave no logits", **self.details}
            yield measured("parity_max_rel", None, Kind.EMULATED, n=0, details=reason)
            return
        images = task.judged[0].images
        host, _ = measure.run_logits(task.path, task.runtime, images)
        error, agreement, _ = compare(logits, host[0])
        details = {"label_agreement": agreement, "against": "the host's kernels", **self.details}
        yield measured("parity_max_rel", error, Kind.EMULATED, n=len(images), details=details)


class ProgramPlace(Place):
    """A device where Google's program times a TFLite file: an average and nothing else.

    Args:
        transport: The way there; it stays open.
        profile: What the device should be.
        program: Of the device's ABI.
    """

    modes: frozenset[str] = frozenset()

    def __init__(self, transport: Transport, profile: DeviceProfile, program: Path) -> None:
        self.name = profile.id
        self._transport = transport
        self._program = program
        self._before = read_facts(transport)
        where = transport.where
        require_target(self._before, runtime="litert", where=where, profile=profile)

    def take(self, jobs: Jobs) -> Taken:
        """Do nothing: the program knows no jobs."""
        kind = kind_of(self._transport, self._before)
        note = f"{self._program.name} gives a mean without samples, and no accuracy"
        return Taken(kind, {}, to_json(self._transport.facts()), (note,))

    def own(self, task: Task, logits: Floats | None) -> Iterator[Measurement]:
        """Give the mean and the time to load."""
        threads, name = task.options.threads, self._program.name
        cores = big_cores(self._before, threads)
        times = run_benchmark_model(
            self._transport, self._program, task.path, threads=threads, cores=cores
        )
        kind = kind_of(self._transport, self._before)
        details = {"statistic": "mean", "batch": 1, "threads": threads, "program": name}
        yield measured("latency_ms", times.mean_ms, kind, n=times.runs, details=details)
        yield measured("load_ms", times.init_ms, kind, details={"program": name})


def usable_python(transport: Transport, profile: DeviceProfile, options: BenchOptions) -> str:
    """Return the Python of a device that can run our runner; "" where another program does.

    Raises:
        Missing: The Python that the user named is not there, or has no numpy.
    """
    if options.runner is not None:
        return ""
    read_facts(transport)
    named = options.python or (
        profile.transport.python if profile.transport.python != PYTHON else ""
    )
    python = at_home(transport, named or PYTHON)
    if named or transport.name != "adb":
        tried = transport.run([python, "-c", "import numpy"], timeout=60)
        if tried.rc == 0:
            return python
        if named:
            raise unusable_python(tried, transport.where, python)
    return ""
