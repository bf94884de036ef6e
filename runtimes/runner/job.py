"""Reading a job: its models, its inputs, and what ran its custom nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np

from sepdeploy.runtimes.runner.contract import (
    Array,
    Model,
    Result,
    RunnerError,
    Shape,
    one_line,
)
from sepdeploy.runtimes.runner.table import load

READERS = {"str": str, "int": int, "float": float, "bool": bool}


class Named(NamedTuple):
    """A model of a job, by name and path."""

    name: str
    path: str


@dataclass(frozen=True)
class Job:
    """What is asked for; a ``batch`` of 0 and ``batches`` of None are the mode's own."""

    mode: str
    runtime: str
    models: tuple[Named, ...]
    threads: int = 1
    native: Mapping[str, str] = field(default_factory=dict)
    id: str = ""
    inputs: str = ""
    output: str = ""
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    ids: tuple[int, ...] = ()
    norm: str = "linf"
    eps: float = 0.0
    queries: int = 1
    restarts: int = 1
    batch: int = 0
    batches: tuple[int, ...] | None = None
    memory_limit: int = 0
    runs: int = 5
    seed: int = 0
    warmup: int = 5
    processor: bool = False
    block_us: float = 200.0
    min_rounds: int = 30
    samples_per_round: int = 1
    min_seconds: float = 1.0
    max_seconds: float = 60.0

    @property
    def model(self) -> str:
        """The path of a job about one model."""
        return self.models[0].path


def read_job(said: Mapping[str, Any]) -> Job:
    """Return a job that was read from JSON; a key that no mode has is passed over."""
    several = said["models"] if said["mode"] == "latency" else [{"name": "", "path": said["model"]}]
    plain = {
        f.name: READERS[str(f.type)](said[f.name])
        for f in fields(Job)
        if str(f.type) in READERS and f.name in said
    }
    return Job(
        models=tuple(Named(str(m["name"]), str(m["path"])) for m in several),
        native=said.get("native") or {},
        shapes={str(n): tuple(map(int, s)) for n, s in (said.get("shapes") or {}).items()},
        names=tuple(map(str, said.get("names", ()))),
        labels=tuple(map(int, said.get("labels", ()))),
        ids=tuple(map(int, said.get("ids", ()))),
        batches=tuple(map(int, said["batches"])) if "batches" in said else None,
        **plain,
    )


def load_model(job: Job, path: str, *, keep_values: bool = False) -> Model:
    """Return a model of a job."""
    library = job.native.get(path, "")
    model = load(job.runtime, path, job.threads, library, keep_values=keep_values)
    if job.shapes:
        model.fix(job.shapes)
    return model


class Runnable(NamedTuple):
    """What runs a model, made-up inputs for it, and what they look like."""

    run: Callable[[Any], Any]
    inputs: Any
    takes: tuple[object, ...]


def runnable(model: Model, batch: int, seed: int) -> Runnable:
    """Return a model that ran once: by its one sample where it has one, else by names.

    A file that answers with other rows than samples is run by names as well.

    Raises:
        RunnerError: It fails, or no inputs can be made up.
    """
    if model.refusal is None:
        inputs = np.random.default_rng(seed).random((batch, *model.sample), dtype=np.float32)
        try:
            model.run(inputs)
        except RunnerError:
            if model.fixed not in (None, batch):
                raise
        else:
            return Runnable(model.run, inputs, model.sample)
    feeds = model.feeds(batch, seed)
    model.run_named(feeds)
    takes = tuple(sorted((a.shape, a.dtype.name) for a in feeds.values()))
    return Runnable(model.run_named, feeds, takes)


def native_calls(job: Job, models: list[Any]) -> Result:
    """Return what a result says about native kernels."""
    if not job.native:
        return {}
    return {"native_calls": sum(getattr(model, "native_calls", 0) for model in models)}


def kernels(job: Job, path: str, model: Any) -> Result:
    """Return which kernels ran a model's custom nodes, nothing where none did."""
    if not getattr(model, "native_calls", 0):
        return {}
    return {"kernels": "reference" if job.native.get(path) == "reference" else "native"}


def read_inputs(job: Job) -> Array:
    """Return the samples that a job is about.

    Raises:
        RunnerError: They cannot be read.
    """
    try:
        inputs: Array = np.load(job.inputs, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RunnerError("bad-input", f"inputs cannot be read: {one_line(error)}") from error
    return inputs
