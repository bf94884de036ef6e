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
from sepdeploy.jobs import Answer, Job, logits_job, read_logits
from sepdeploy.measure.accuracy import accuracy, check_distance
from sepdeploy.measure.latency import Timing, latency_job, latency_pair
from sepdeploy.measure.memory import memory_pair
from sepdeploy.metrics import measured
from sepdeploy.records import Kind, Measurement
from sepdeploy.workflows.bench.judging import JudgingSet
from sepdeploy.workflows.bench.options import BenchOptions

ACCURACY_BATCH = 32
Jobs = Sequence[tuple[str, Job]]


@dataclass(frozen=True)
class Task:
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
    beside every accuracy from there, ``threads`` is for logits.
    """

    name: str
    modes: frozenset[str]
    details: Mapping[str, object] = {}
    threads = 1

    def timing(self, options: BenchOptions) -> Timing:
        """Return how long is timed there; here the batch and threads alone."""
        return Timing(options.batch, options.threads)

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
        jobs = dict(_jobs(place, task, timing, folder))
        taken = place.take(list(jobs.items()))
        clean = _logits(taken, jobs, "clean", task)
        found = [*_timed(taken, task, timing), *place.own(task, clean)]
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
    for name, _, _, images in _faces(task.judged):
        batches = [min(ACCURACY_BATCH, len(images))]
        yield name, logits_job(
            task.path, task.runtime, images, folder,
            batches=batches, threads=place.threads, name=name,
        )  # fmt: skip


def _faces(
    judged: tuple[JudgingSet, ...],
) -> Iterator[tuple[str, str, JudgingSet, NDArray[np.float32]]]:
    """Give the images to run, with a name of theirs and the metric that they decide."""
    for index, judging in enumerate(judged):
        if _clean_face(judged, judging) == _face("clean", index):
            yield _face("clean", index), "clean_accuracy", judging, judging.images
        if judging.adversarial is not None:
            yield _face("attack", index), "adversarial_accuracy", judging, judging.adversarial


def _face(name: str, index: int) -> str:
    return name if name == "clean" and not index else f"{name}{index}"


def _clean_face(judged: tuple[JudgingSet, ...], judging: JudgingSet) -> str:
    """Return the name under which a set's clean images are run: attacks mostly share them."""
    index = next(i for i, s in enumerate(judged) if np.array_equal(s.ids, judging.ids))
    return _face("clean", index)


def _logits(
    taken: Taken, jobs: Mapping[str, Job], name: str, task: Task
) -> NDArray[np.float32] | None:
    if name not in taken.answers:
        return None
    images = next(images for own, _, _, images in _faces(task.judged) if own == name)
    found: NDArray[np.float32] = read_logits(jobs[name], 1, len(images))[0]
    return found


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
    """Judge the logits that the place gave, by one rule."""
    for name, metric, judging, _ in _faces(task.judged):
        attacked = metric == "adversarial_accuracy"
        origin = judging.attacked_origin() if attacked else judging.origin()
        if name in taken.findings:
            reason = {"reason": taken.findings[name], **place.details}
            yield measured(metric, None, taken.kind, n=0, details=reason)
        logits = _logits(taken, jobs, name, task)
        clean = _logits(taken, jobs, _clean_face(task.judged, judging), task) if attacked else None
        if logits is not None and not (attacked and clean is None):
            yield accuracy(
                metric, logits, judging.images, judging.labels, taken.kind,
                {**origin, **place.details}, where=task.path, clean=clean,
            )  # fmt: skip
