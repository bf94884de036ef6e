"""Jobs of the runner, done on a device.

``DeviceRunner.run_job`` takes the same job and gives the same answer as a child process on this
machine would: the files that a job names are sent (keyed by their digests, so each travels once),
the runner reads the rewritten job from standard input, and the file it writes is fetched.
``measure`` does several jobs between two looks at the device and keeps what it got when one fails.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sepdeploy.devices import facts as device_facts
from sepdeploy.devices import judgement
from sepdeploy.devices.facts import DeviceFacts
from sepdeploy.devices.failures import PYTHON, crash
from sepdeploy.devices.profile import DeviceProfile
from sepdeploy.devices.transports.base import Completed, Disconnected, Transport
from sepdeploy.errors import RUN_IT, BadInput, Missing, SepdeployError
from sepdeploy.files import sha256_file
from sepdeploy.jobs import Answer, Job, NoAnswer, Refused, Stamp, read_answer
from sepdeploy.records import Kind

JOB_TIMEOUT_S = 900.0
RECONNECT_PAUSE_S = 1.0
JOB = "SEPDEPLOY_JOB"  # in a job's environment: its name


@dataclass(frozen=True)
class Launcher:
    """A program that reads a job from standard input and writes its result as the last line.

    Attributes:
        files: What it consists of: name on the device (relative) → file here.
        argv: How it is started, in the transport's working folder.
        runnable: Names in ``files`` that are started themselves.
        env: Variables it needs.
        name: In a word, for messages ("python3", "runner").
    """

    files: Mapping[str, Path]
    argv: tuple[str, ...]
    runnable: frozenset[str] = frozenset()
    env: Mapping[str, str] = field(default_factory=dict)
    name: str = PYTHON


def python_launcher(runner: Path, python: str = PYTHON) -> Launcher:
    """Return the launcher of the Python runner.

    Args:
        runner: The zipped runner; its digest becomes part of its name on the device.
        python: The interpreter on the device.
    """
    name = f"runner-{sha256_file(runner)[:16]}{runner.suffix}"
    return Launcher({name: runner}, (python, "-B", name), name=python)


def program_launcher(program: Path) -> Launcher:
    """Return the launcher of one executable file that speaks the runner's JSON."""
    name = f"runner-{sha256_file(program)[:16]}"
    return Launcher({name: program}, (f"./{name}",), frozenset({name}), name=program.name)


class DeviceRunner:
    """Does the runner's jobs on a device.

    Args:
        transport: The way there; it stays open.
        launcher: What is started there.
        cores: Numbers of the cores to bind to; empty binds to none.
        pause: Seconds to wait before a lost connection is tried again.
    """

    def __init__(
        self,
        transport: Transport,
        launcher: Launcher,
        *,
        cores: Sequence[int] = (),
        pause: float = RECONNECT_PAUSE_S,
    ) -> None:
        self.transport = transport
        self.launcher = launcher
        self.retries = 0
        self._cores = tuple(cores)
        self._pause = pause
        self._last = ""  # name of the newest job
        self._present: set[str] = set()  # names that are on the device with the right content

    def run_job(self, job: Job, *, timeout: float = JOB_TIMEOUT_S) -> Answer:
        """Do one job; a lost connection is tried again once, from the start of the job.

        Args:
            job: With paths of this machine; its limit of memory stays here.
            timeout: Seconds.

        Raises:
            BadInput: A file is not usable, or ends the runtime.
            Missing: The device, its Python or its runtime is absent, or its memory or disk is full.
        """
        try:
            return self._attempt(job, timeout)
        except Disconnected:
            self.retries += 1
            self._present.clear()
            time.sleep(self._pause)
            self._end_leftover()
            return self._attempt(job, timeout)

    def _attempt(self, job: Job, timeout: float) -> Answer:
        names: dict[str, Path] = {}
        digests: dict[Path, str] = {}

        def sent(path: Path) -> str:
            digests[path] = sha256_file(path)
            name = f"files/{digests[path]}{path.suffix}"
            names[name] = path
            return name

        remote = job.wire(sent, "output")  # named below
        remote.pop("memory_limit", None)
        own = self._name(remote)
        stamp = Stamp(own, tuple(digests[path] for path in job.models.values()))
        output = f"files/{own}.npy"
        remote |= {"id": own} | ({"output": output} if job.output is not None else {})
        self.provide(self.launcher.files, self.launcher.runnable)
        self.provide(names)
        done = self.transport.run(
            self._command(own),
            stdin=json.dumps(remote, sort_keys=True).encode(),
            timeout=timeout + job.patience,
            env={**environment(job.threads or 1), JOB: own, **self.launcher.env},
        )
        try:
            answer = self._read(done, job, stamp, {name: str(path) for name, path in names.items()})
            if job.output is not None:
                self.transport.pull(output, job.output)
        finally:
            self.transport.run(["rm", "-f", output, f"{own}.pid"])
        return answer

    def _name(self, remote: Mapping[str, object]) -> str:
        """Return a name that no other job has, here or on any other connection."""
        told = json.dumps([self.transport.token, remote], sort_keys=True)
        self._last = "job-" + hashlib.sha256(told.encode()).hexdigest()[:24]
        return self._last

    def _command(self, own: str) -> list[str]:
        """Return what starts a job, leaving its process number for ``_end_leftover``."""
        argv = list(self.launcher.argv)
        if self._cores:
            mask = sum(1 << core for core in self._cores)
            argv = ["taskset", f"{mask:x}", *argv]
        return ["sh", "-c", f"echo $$ > {own}.pid; exec {shlex.join(argv)}"]

    def _end_leftover(self) -> None:
        """End what the lost connection left running: it would disturb the second attempt.

        The number in the file may be somebody else's by now: what has it must carry our job.
        """
        pid, mark = f"{self._last}.pid", f"{JOB}={self._last}"
        self.transport.shell(
            f"[ -f {pid} ] && read -r p < {pid} && "
            f"tr '\\000' '\\n' < /proc/$p/environ 2>/dev/null | grep -qx {mark} && "
            f'kill -9 "$p" 2>/dev/null; rm -f {pid} files/{self._last}.npy'
        )

    def provide(self, files: Mapping[str, Path], runnable: frozenset[str] = frozenset()) -> None:
        """Make sure that the files are on the device, with exactly their content.

        Raises:
            Missing: There is no room for one, or it arrives damaged.
        """
        wanted = {
            name: sha256_file(path) for name, path in files.items() if name not in self._present
        }
        if not wanted:
            return
        there = self._digests(wanted)
        absent = [name for name, digest in wanted.items() if there.get(name) != digest]
        for name in absent:
            self.transport.push(files[name], name, executable=name in runnable)
        if absent:
            there = self._digests(absent)
            for name in absent:
                if there.get(name) not in (wanted[name], ""):
                    raise Missing(
                        f"{self.transport.where}: {files[name].name} arrives damaged",
                        hint="is the device's storage failing? try another workdir in its profile",
                    )
        self._present.update(wanted)

    def _digests(self, names: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
        """Return SHA-256 by name of the files that exist; "" where the device cannot compute it."""
        done = self.transport.shell(
            f'for f in {shlex.join(names)}; do [ -f "$f" ] || continue; '
            'd=$(sha256sum "$f" 2>/dev/null); echo "$f ${d%% *}"; done'
        )
        pairs = (line.partition(" ") for line in done.text.splitlines())
        return {name: digest.strip() for name, _, digest in pairs}

    def _read(self, done: Completed, job: Job, stamp: Stamp, back: Mapping[str, str]) -> Answer:
        """Return what the runner answered, or raise what its end means."""
        where = self.transport.where
        try:
            return read_answer(done.stdout, job, stamp=stamp)
        except NoAnswer:
            bound = bool(self._cores)
            program = self.launcher.name
            raise crash(done, job, where=where, program=program, bound=bound) from None
        except Refused as refused:
            message, hint = refused.message, refused.hint or RUN_IT
            for name, path in back.items():
                message = message.replace(name, path)
            if refused.kind == "missing":
                own = f"on the device: {refused.hint}" if refused.hint else ""
                hint = own or "install what it lacks on the device"
                raise Missing(f"{where}: {message}", hint=hint) from None
            if refused.kind == "no-room":
                raise Missing(
                    f"{where}: the disk is full: {message}",
                    hint="free some space on the device, or set transport.workdir in its profile",
                ) from None
            if refused.kind == "bad-input":
                raise BadInput(f"{where}: {message}", hint=hint) from None
            raise BadInput(f"{where}: the runner failed: {message}", hint=hint or RUN_IT) from None


def environment(threads: int) -> dict[str, str]:
    """Return the variables of a job on a device: the same on every call, so that runs compare."""
    fixed = {"LC_ALL": "C", "PYTHONHASHSEED": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return fixed | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


@dataclass(frozen=True)
class DeviceRun:
    """What a device gave: complete, or as far as it went.

    Attributes:
        kind: How its numbers were obtained.
        connection: What the transport says of itself.
        before: The device before the first job.
        after: The device after the last one; None when it could not be asked any more.
        answers: By the name of their job, those that were finished.
        notes: What a reader of the numbers should know.
        error: Why it is incomplete or void; None when it is neither. Raise it after keeping
            the answers.
    """

    kind: Kind
    connection: Mapping[str, object]
    before: DeviceFacts
    after: DeviceFacts | None
    answers: Mapping[str, Answer]
    notes: tuple[str, ...] = ()
    error: SepdeployError | None = None

    def device(self) -> dict[str, object]:
        """Return the facts as the flat JSON object that results carry."""
        return {**self.connection, **judgement.summary(self.before, self.after)}


def kind_of(transport: Transport, facts: DeviceFacts) -> Kind:
    """Return the kind of a number measured over a transport."""
    if transport.name == "local":
        return Kind.HOST
    if facts.emulator or (transport.name == "adb" and transport.address.startswith("emulator-")):
        return Kind.MEASURED_EMULATOR
    return Kind.MEASURED


def measure(
    transport: Transport,
    launcher: Launcher,
    jobs: Sequence[tuple[str, Job]],
    *,
    profile: DeviceProfile | None = None,
    steady: bool = True,
    on_job: Callable[[str], None] = lambda name: None,
    pause: float = RECONNECT_PAUSE_S,
) -> DeviceRun:
    """Do jobs on a device between two looks at it.

    Args:
        transport: The way there; it stays open.
        launcher: What is started there.
        jobs: (name, job) in the order in which they are done; see ``DeviceRunner.run_job``.
        profile: What the device should be; None makes no claim.
        steady: Whether a device that was slowed down voids the run; a sustained run looks for
            exactly that and says False.
        on_job: Told the name of each job as it starts.
        pause: Seconds to wait before a lost connection is tried again.

    Returns:
        Answers, facts, notes; ``error`` says what went wrong after the device was reached.

    Raises:
        BadInput: The device is another one than its profile says.
        Missing: The device cannot be reached, or is a 32-bit one.
    """
    connection = transport.facts()
    before = device_facts.read_facts(transport)
    for _, job in jobs:
        where = transport.where
        judgement.require_target(before, runtime=job.runtime, where=where, profile=profile)
    threads = max((job.threads or 1 for _, job in jobs), default=1)
    cores = judgement.big_cores(before, threads)
    runner = DeviceRunner(transport, launcher, cores=cores, pause=pause)
    answers: dict[str, Answer] = {}
    error: SepdeployError | None = None
    for name, job in jobs:
        on_job(name)
        try:
            answers[name] = runner.run_job(job)
        except SepdeployError as failure:
            error = failure
            break
    after: DeviceFacts | None = None
    with contextlib.suppress(SepdeployError):
        after = device_facts.read_facts(transport)
    if error is None and steady and after is not None:
        try:
            judgement.require_steady(before, after, transport.where)
        except SepdeployError as failure:
            error = failure
    kind = kind_of(transport, before)
    notes = (*_notes(kind, runner, cores), *judgement.remarks(before))
    return DeviceRun(kind, connection, before, after, answers, notes, error)


def _notes(kind: Kind, runner: DeviceRunner, cores: Sequence[int]) -> tuple[str, ...]:
    notes = []
    if kind is Kind.MEASURED_EMULATOR:
        notes.append("an Android emulator: the host's processor, not a phone's")
    if cores:
        notes.append(f"bound to cpu {', '.join(map(str, cores))}")
    if runner.retries:
        notes.append(f"the connection was lost and restored {runner.retries} time(s)")
    return tuple(notes)
