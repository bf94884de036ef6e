"""One procedure for every place where a file can be measured: which jobs, and what they show.

A place does jobs of the runner: a child process of this machine, a device, an emulated core. It
says which modes it can do; one without a clock does no "latency", and its answers hold no times
(``jobs.read_answer``), so milliseconds of an emulator cannot come out of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepdeploy.codec import to_json
from sepdeploy.devices.sustained import sample_times, sustained
from sepdeploy.errors import SepdeployError
from sepdeploy.files import scratch
from sepdeploy.jobs import Answer, Job, logits_job, read_logits, read_search, search_job
from sepdeploy.measure.accuracy import accuracy, check_distance
from sepdeploy.measure.latency import Timing, latency_job, latency_pair
from sepdeploy.measure.memory import memory_pair
from sepdeploy.metrics import TORCH_MODEL, measured
from sepdeploy.records import Kind, Measurement
from sepdeploy.workflows.bench.judging import JudgingSet
from sepdeploy.workflows.bench.options import BenchOptions
from sepdeploy.workflows.bench.pairs import difference
from sepdeploy.workflows.bench.self_checks import ADVERSARIAL, CLEAN, at_worst, checks, marked

ACCURACY_BATCH = 32
SEARCH = "search"  # mode of the runner
Jobs = Sequence[tuple[str, Job]]


@dataclass(frozen=True)
class Task:
    """What is to be measured of one artifact.

    ``dense`` is the dense reference file, or None with the reason in ``why_no_dense``.
    ``open_sizes``: the file leaves sizes besides the batch open. ``several``: it does not take one
    float sample.
    """

    path: Path
    runtime: str
    judged: tuple[JudgingSet, ...]
    dense: Path | None
    why_no_dense: str
    options: BenchOptions
    open_sizes: bool = False
    several: bool = False


@dataclass(frozen=True)
class Taken:
    """What a place gave: complete, or as far as it went.

    Attributes:
        kind: How its numbers were obtained.
        answers: By the name of their job, those that were finished.
        facts: What is known about the place.
        notes: What a reader of the numbers should know.
        error: Why it is incomplete or void.
        findings: By the name of a job: why the place can never do it.
    """

    kind: Kind
    answers: Mapping[str, Answer]
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    error: SepdeployError | None = None
    findings: Mapping[str, str] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """The version of the runtime there."""
        known = (a.version for a in self.answers.values() if a.version != "unknown")
        return next(known, "unknown")


class Place(ABC):
    """Where a file is measured.

    ``name`` and ``modes`` say where, and which modes of the runner it can do; ``details`` stand
    beside every accuracy from there, ``threads`` is for logits, and clean images are run twice
    where it ``repeats``.
    """

    name: str
    modes: frozenset[str]
    details: Mapping[str, object] = {}
    threads = 1
    repeats = True

    def timing(self, options: BenchOptions) -> Timing:
        """Return how long is timed there; here the batch and threads alone."""
        return Timing(options.batch, options.threads, shapes=options.shapes)

    @abstractmethod
    def take(self, jobs: Jobs) -> Taken:
        """Do the jobs in turn."""

    def own(self, task: Task, logits: NDArray[np.float32] | None) -> Iterator[Measurement]:
        """Give what only this place can say; ``logits`` are those of the clean images."""
        return iter(())


def measure_at(place: Place, task: Task) -> tuple[tuple[Measurement, ...], Taken]:
    """Measure an artifact at a place; what was finished before a failure is kept.

    Raises:
        BadInput: The artifact is not usable, or the place is another one than was said.
        Missing: The place cannot be reached, or its runtime is absent.
    """
    timing = place.timing(task.options)
    for judging in task.judged:
        if judging.adversarial is not None and judging.attack is not None:
            eps, norm = judging.attack.eps, judging.attack.norm
            check_distance(judging.images, judging.adversarial, eps, norm)
    with scratch() as folder:
        shapes = task.options.shapes
        jobs = {n: job.fixed(shapes) for n, job in _jobs(place, task, timing, folder)}
        taken = place.take(list(jobs.items()))
        faces = _faces(task.judged, place)
        clean = next((_logits(taken, jobs, face) for face in faces), None)
        own = place.own(task, None if clean is None else clean[0])
        found = [*_timed(taken, task, timing), *own]
        found += _accuracies(place, taken, jobs, task)
    return tuple(found), taken


def _jobs(place: Place, task: Task, timing: Timing, folder: Path) -> Iterator[tuple[str, Job]]:
    threads = task.options.threads
    if "memory" in place.modes:
        settings = {"batch": timing.batch}
        yield "memory", Job("memory", task.runtime, {"artifact": task.path}, settings, threads)
    if "latency" in place.modes:
        models = {"artifact": task.path}
        if task.dense is not None and not task.options.sustained:
            models["dense"] = task.dense
        yield "latency", latency_job(models, task.runtime, timing)
    for face in _faces(task.judged, place):
        own = face.judging
        if face.images is not None:
            batches = [min(ACCURACY_BATCH, len(face.images))]
            if not face.attacked and place.repeats:
                batches *= 2  # answers that change between two runs judge nothing
            yield face.name, logits_job(
                task.path, task.runtime, face.images, folder,
                batches=batches, threads=place.threads, name=face.name,
            )  # fmt: skip
        elif own.attack is not None and SEARCH in place.modes:
            yield face.name, search_job(
                task.path, task.runtime, own.labelled, own.attack, folder,
                batch=ACCURACY_BATCH, threads=place.threads, name=face.name,
            )  # fmt: skip


@dataclass(frozen=True)
class _Face:
    """Images to run: the clean ones of a judging set, or its attacked ones.

    Attributes:
        name: Of the job.
        judging: The set.
        images: To run; None where the place looks for them itself.
        clean: Name of the job that runs the same images as they are.
    """

    name: str
    judging: JudgingSet
    images: NDArray[np.float32] | None
    clean: str

    @property
    def attacked(self) -> bool:
        return self.name != self.clean


def _faces(judged: tuple[JudgingSet, ...], place: Place) -> Iterator[_Face]:
    for index, judging in enumerate(judged):
        first = next(i for i, s in enumerate(judged) if np.array_equal(s.ids, judging.ids))
        clean = f"clean{first}" if first else "clean"  # attacks mostly share them
        if first == index:
            yield _Face(clean, judging, judging.images, clean)
        if judging.searched and (SEARCH in place.modes or judging.adversarial is None):
            yield _Face(f"attack{index}", judging, None, clean)
        elif judging.adversarial is not None:
            yield _Face(f"attack{index}", judging, judging.adversarial, clean)


def _logits(taken: Taken, jobs: Mapping[str, Job], face: _Face) -> NDArray[np.float32] | None:
    """Return (runs, N, classes), None where the place gave none."""
    if face.name not in taken.answers:
        return None
    job, own = jobs[face.name], face.judging
    if face.images is None and own.attack is not None:
        found, logits = read_search(job, own.images)
        check_distance(own.images, found, own.attack.eps, own.attack.norm)
        return logits[None]
    return read_logits(job, len(job.settings["batches"]), len(own.images))


def _timed(taken: Taken, task: Task, timing: Timing) -> Iterator[Measurement]:
    """Give memory and times; times of a run that went wrong are marked as void."""
    void = {} if taken.error is None else {"throttled": True, "reason": taken.error.message}
    if "memory" in taken.answers:
        peak, *load = memory_pair([taken.answers["memory"]], taken.kind, None)
        yield peak
        yield from (replace(m, details=m.details | void) for m in load)
    times = taken.answers["latency"].times if "latency" in taken.answers else None
    if times is not None:
        if task.options.sustained:
            ends = sample_times(times, task.options.sustained)
            void["sustained"] = to_json(sustained(ends[0], times.models[0].samples_ms))
        for found in latency_pair(times, timing, taken.kind, why_no_dense=task.why_no_dense):
            yield replace(found, details=found.details | void)


def _accuracies(
    place: Place, taken: Taken, jobs: Mapping[str, Job], task: Task
) -> Iterator[Measurement]:
    """Judge the logits that the place gave, by one rule; under several attacks also at worst."""
    found: list[Measurement] = []
    apart: list[Measurement] = []
    clean: dict[str, NDArray[np.float32]] = {}
    for face in _faces(task.judged, place):
        own, metric = face.judging, ADVERSARIAL if face.attacked else CLEAN
        origin = own.attacked_origin() if face.attacked else own.origin()
        details = {**origin, **place.details}
        reason = taken.findings.get(face.name)
        if reason is None and face.images is None and face.name not in jobs:
            reason = f"{place.name} looks for no examples itself, and a recording holds none"
        if reason is not None:
            absent = {"reason": reason, **place.details}
            found.append(measured(metric, None, taken.kind, n=0, details=absent))
        logits = _logits(taken, jobs, face)
        if logits is None or (face.attacked and face.clean not in clean):
            continue
        if not face.attacked:
            clean[face.name] = logits
        else:
            details |= checks(own, clean[face.clean], place.repeats)
        found.append(
            accuracy(
                metric,
                logits[0],
                own.images,
                own.labels,
                taken.kind,
                details,
                where=task.path,
                clean=clean[face.clean][0] if face.attacked else None,
            )
        )
        old = own.twin_outcomes(attacked=face.attacked)
        if old is not None:
            apart.append(difference(found[-1], TORCH_MODEL, old))
    yield from (*at_worst(marked(found)), *apart)
