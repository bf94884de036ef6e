"""What a runner is asked for and what it answers: the records of both, and the one reader.

The JSON is that of ``runtimes/runner`` and of the compiled runner. An answer may come from a
device, or from a process that a hostile file has taken over, so nothing in it is believed: sizes
are bounded, numbers finite, texts one line, and a place without a clock gets no times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sepdeploy.codec import loads
from sepdeploy.errors import BadInput, printable

MOST_TEXT = 64 << 20  # bytes of an answer
MOST_ITEMS = 1 << 22  # of one list in it
MOST_LINE = 500  # characters of a message
MOST_COUNT = 1 << 62


@dataclass(frozen=True)
class Job:
    """One job of a runner.

    Attributes:
        mode: "run", "latency", "memory" and what else ``runtimes/runner`` can do.
        runtime: The runtime that does it.
        models: The files by name, which take turns in mode "latency"; else there is one.
        settings: What the mode takes beside these.
        threads: Threads of the runtime; None leaves it to the runner.
        inputs: A .npy file that it reads.
        output: The file that it writes.
        patience: Seconds that it may take beside what any job may: a search asks many times.
    """

    mode: str
    runtime: str
    models: Mapping[str, Path]
    settings: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = 1
    inputs: Path | None = None
    output: Path | None = None
    patience: float = 0.0

    def wire(self, name: Callable[[Path], str] = str, output: str | None = None) -> dict[str, Any]:
        """Return the JSON object that a runner reads.

        Args:
            name: Gives a file its name at the place where the runner is.
            output: Name of the output there; by default its own.
        """
        sent: dict[str, Any] = {"mode": self.mode, "runtime": self.runtime, **self.settings}
        if self.threads is not None:
            sent["threads"] = self.threads
        if self.mode == "latency":
            sent["models"] = [{"name": n, "path": name(p)} for n, p in self.models.items()]
        else:
            (sent["model"],) = map(name, self.models.values())
        if self.inputs is not None:
            sent["inputs"] = name(self.inputs)
        if self.output is not None:
            sent["output"] = output or str(self.output)
        return sent

    def fixed(self, shapes: Mapping[str, tuple[int, ...]]) -> Job:
        """Return the job with open sizes of inputs fixed, by their names."""
        return replace(self, settings={**self.settings, "shapes": dict(shapes)}) if shapes else self

    @property
    def subject(self) -> str:
        """The files that it is about."""
        return ", ".join(map(str, self.models.values())) or "job"


@dataclass(frozen=True)
class Timed:
    """The samples of one model in milliseconds per run, and how many runs are one sample.

    ``kernels`` says what ran its custom nodes, "" where it has none or they ran as bodies.
    """

    name: str
    samples_ms: tuple[float, ...]
    block_runs: int
    kernels: str = ""


@dataclass(frozen=True)
class Clocked:
    """What only a place with a clock can say: times."""

    models: tuple[Timed, ...] = ()
    rounds: int = 0
    load_ms: float = 0.0
    first_run_ms: float = 0.0

    def samples(self) -> dict[str, tuple[float, ...]]:
        """Return the samples by name."""
        return {m.name: m.samples_ms for m in self.models}


@dataclass(frozen=True)
class Answer:
    """What a runner answered.

    Attributes:
        version: Of the runtime.
        times: None from a place without a clock.
        memory: Resident bytes of mode "memory": "peak", "before", "loaded", "after".
        native_calls: How often native kernels ran in one run.
        found: Names of the values that modes "values" and "outputs" wrote.
        ranges: Smallest and largest value by name, of mode "ranges".
        queries: For how many images modes "search" and "serve" asked.
        runner: What kind of runner it was.
    """

    version: str = "unknown"
    times: Clocked | None = None
    memory: Mapping[str, int] = field(default_factory=dict)
    native_calls: int = 0
    found: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    queries: int = 0
    runner: str = ""


class NoAnswer(Exception):
    """A runner ended without an answer; the place knows what its end means."""


class Refused(Exception):
    """A runner answered that it cannot do the job.

    Attributes:
        kind: "bad-input", "missing" or "internal".
        message: One line.
        hint: Next step, "" where there is none.
    """

    def __init__(self, kind: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.kind, self.message, self.hint = kind, message, hint


@dataclass(frozen=True)
class Stamp:
    """What tells the answer to a job from the answer to any other.

    Attributes:
        id: Name of the job, which no other has.
        sha256: Digests of its files, in their order; a compiled runner does not compute them.
    """

    id: str
    sha256: tuple[str, ...]

    def fits(self, said: Mapping[str, Any]) -> bool:
        """Whether an answer is one to this job."""
        return said.get("id") == self.id and said.get("sha256", [*self.sha256]) == [*self.sha256]


def read_answer(text: bytes, job: Job, *, clock: bool = True, stamp: Stamp | None = None) -> Answer:
    """Return the answer that stands in the last line of what a runner wrote.

    Args:
        text: Its standard output.
        job: What it was asked for.
        clock: Whether the place has a clock; without one the answer holds no times.
        stamp: What the answer must carry where several jobs could be mixed up.

    Raises:
        BadInput: The answer is not one to this job.
        NoAnswer: There is none.
        Refused: The runner could not do it.
    """
    lines = text[-MOST_TEXT:].decode(errors="replace").strip().splitlines()
    try:
        said = loads(lines[-1])
        good = said["ok"]
    except (IndexError, ValueError, KeyError, TypeError):
        raise NoAnswer from None
    if not isinstance(good, bool):
        raise NoAnswer
    if not good:
        kind, hint = one_line(said.get("kind")), one_line(said.get("hint", ""))
        raise Refused(kind, one_line(said.get("error")), hint)
    if stamp is not None and not stamp.fits(said):
        raise BadInput(
            f"{job.subject}: the runner answered another job, or about another file",
            hint="does something else write to the device's working folder? then try again",
        )
    try:
        return _answer(said, job, clock)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadInput(
            f"{job.subject}: the runner's answer to '{job.mode}' is broken: "
            f"{one_line(f'{type(error).__name__} {error}')}",
            hint="is it our runner, and did the file take it over?",
        ) from error


def _answer(said: dict[str, Any], job: Job, clock: bool) -> Answer:
    memory = {}
    if job.mode == "memory":
        memory = {"peak": _count(said["peak_rss_bytes"])}
        for key in ("before", "loaded", "after"):
            memory[key] = _count(said.get(f"rss_{key}_bytes", 0))
    return Answer(
        version=one_line(said.get("version", "unknown")),
        times=_times(said, job) if clock else None,
        memory=memory,
        native_calls=_count(said.get("native_calls", 0)),
        found=_found(said, job),
        ranges=_ranges(said["ranges"], job) if job.mode == "ranges" else {},
        queries=_count(said.get("queries", 0)),
        runner=one_line(said.get("runner", "")),
    )


def _found(said: dict[str, Any], job: Job) -> tuple[str, ...]:
    """Return the names of what was written."""
    if job.mode == "outputs":
        return tuple(map(one_line, _items(said["found"])))
    return _asked(job, _items(said["found"])) if job.mode == "values" else ()


def _asked(job: Job, said: list[Any] | dict[str, Any]) -> tuple[str, ...]:
    """Return the names that were asked for and are there."""
    return tuple(name for name in job.settings["names"] if name in said)


def _ranges(said: dict[str, Any], job: Job) -> dict[str, tuple[float, float]]:
    # Not bounded: an activation may well be infinite.
    return {name: (float(said[name][0]), float(said[name][1])) for name in _asked(job, said)}


def _times(said: dict[str, Any], job: Job) -> Clocked:
    if job.mode == "memory":
        first = _time(said.get("first_run_ms", 0))
        return Clocked(load_ms=_time(said["load_ms"]), first_run_ms=first)
    if job.mode != "latency":
        return Clocked()
    models = tuple(
        Timed(
            name,
            tuple(map(_time, _items(row["samples_ms"]))),
            _count(row["block_runs"]),
            one_line(row.get("kernels", "")),
        )
        for name, row in zip(job.models, _items(said["models"]), strict=True)
    )
    rounds = _count(said["rounds"])
    if rounds < 1 or {len(m.samples_ms) for m in models} != {len(models[0].samples_ms)}:
        raise ValueError("rounds and samples do not go together")
    if not models[0].samples_ms or len(models[0].samples_ms) % rounds:
        raise ValueError("rounds and samples do not go together")
    return Clocked(models, rounds)


def one_line(value: Any) -> str:
    """Return a text of bearable length that cannot steer a terminal."""
    text = " ".join(printable(str(value)[: 4 * MOST_LINE]).split())
    return text if len(text) <= MOST_LINE else text[: MOST_LINE - 1] + "…"


def _items(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MOST_ITEMS:
        raise TypeError("expected a list of bearable length")
    return value


def _count(value: Any) -> int:
    number = _number(value)
    if not 0 <= number <= MOST_COUNT:
        raise ValueError("a count out of range")
    return int(value)


def _time(value: Any) -> float:
    number = _number(value)
    if number < 0:
        raise ValueError("a negative time")
    return number


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError("expected a finite number")
    return float(value)
