"""What can be had of a device: measured where it answers, else emulated and estimated.

A device that was addressed (``--host``, ``--serial``, its profile, or attached to adb) is
measured, and it is an error when it does not answer. Otherwise its core is emulated, where that
was set up, and its latency estimated. Milliseconds of an emulator are never reported.
"""

from __future__ import annotations

import datetime
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from sepdeploy.codec import from_json
from sepdeploy.devices import DeviceProfile
from sepdeploy.devices.connect import connect, is_addressed
from sepdeploy.devices.emulation import Emulator, can_emulate, device_transport, runtime_for
from sepdeploy.devices.estimate import Anchor, Work, estimable, estimate, save_anchor
from sepdeploy.devices.transports import Recorder, Replay
from sepdeploy.devices.transports.base import Transport
from sepdeploy.errors import BadInput, Missing, SepdeployError
from sepdeploy.measure.operations import artifact_operations
from sepdeploy.records import Kind, Measurement, Notify, Result, RuntimeRef
from sepdeploy.workflows.bench.estimating import estimated
from sepdeploy.workflows.bench.measuring import Place, Task, measure_at
from sepdeploy.workflows.bench.options import BenchOptions
from sepdeploy.workflows.bench.places import (
    BENCHMARK_MODEL,
    EmulatedPlace,
    ProgramPlace,
    RemotePlace,
)

EMULATOR = "qemu"  # name of the emulator's transport


class DeviceBench:
    """Measures artifacts on one device; a context manager that closes the way to it.

    Args:
        device: The device.
        options: What the command line says.
        notify: Told what goes on.
        context: Written into a recording, see ``--record``.
        replay: A recording that answers in the device's place.

    Attributes:
        notes: What a reader should know about how the numbers were obtained.
        error: Why they are incomplete or void; raise it after the report was kept.
    """

    def __init__(
        self,
        device: DeviceProfile,
        options: BenchOptions,
        notify: Notify,
        *,
        context: dict[str, object] | None = None,
        replay: Replay | None = None,
    ) -> None:
        self.device = device
        self.notes: list[str] = []
        self.error: SepdeployError | None = None
        self._options = options
        self._notify = notify
        self._context = context or {}
        self._replay = replay
        self._stack = ExitStack()
        self._transport: Transport | None = None

    def __enter__(self) -> Self:
        """Reach the device, or open the emulator of its core.

        Raises:
            Missing: It was addressed and does not answer.
        """
        transport = self._replay or self._reach()
        if transport is not None and self._options.record is not None:
            transport = Recorder(transport, self._options.record, self._context)
        self._transport = transport
        if transport is not None:
            self._stack.enter_context(transport)
        return self

    def __exit__(self, *error: object) -> None:
        """Close the way to the device."""
        self._stack.close()

    def _reach(self) -> Transport | None:
        host, serial = self._options.host or "", self._options.serial or ""
        if is_addressed(self.device, host=host, serial=serial):
            found = connect(self.device, host=host, serial=serial)
            self._notify(f"{self.device.id}: measuring over {found.where}")
            return found
        if not can_emulate(self.device):
            self.notes.append(f"{self.device.id}: not attached, and its profile names no core")
            return None
        try:
            return device_transport(self.device)
        except Missing as error:
            self.notes.append(f"{self.device.id}: not emulated: {error.message}; {error.hint}")
            return None

    def result(self, host: Result, task: Task) -> Result:
        """Return everything known of one artifact on this device.

        Args:
            host: STATIC and HOST measurements of the same artifact and runtime.
            task: The artifact and what is to be measured of it.
        """
        found = list(host.measurements)
        facts: dict[str, object] = {"id": self.device.id, "profile_sha256": self.device.digest}
        path = task.path
        place = self._place(task, facts)
        if place is not None:
            measurements, taken = measure_at(place, task)
            found += measurements
            self.notes += taken.notes
            self.error = self.error or taken.error
            if taken.kind is not Kind.EMULATED:
                known = {**taken.facts, **facts, "runtime_version": taken.version}
                facts = dict(sorted(known.items()))
                self._save_anchor(host, path, taken.version, measurements)
        if self.device.estimable:
            found += estimated(
                self.device, self._options.threads, host, task, self._work(place, task)
            )
        return Result(
            device=facts,
            artifact=host.artifact,
            runtime=RuntimeRef(task.runtime, host.runtime.version, self._options.threads),
            measurements=tuple(found),
            notes=tuple(dict.fromkeys((*host.notes, *self.notes))),
        )

    def _place(self, task: Task, facts: dict[str, object]) -> Place | None:
        """Return where the artifact is measured, None where only an estimate can be had."""
        path, runtime = task.path, task.runtime
        transport, program = self._transport, self._options.runner
        if transport is None:
            return None
        if transport.name != EMULATOR:
            if program is not None and program.name.startswith(BENCHMARK_MODEL):
                return ProgramPlace(transport, self.device, program)
            say = f"{self.device.id}: {path.name}: "
            return RemotePlace(
                transport, self.device, self._options, lambda name: self._notify(say + name)
            )
        if runtime != runtime_for(path):
            self.notes.append(f"{runtime} is not emulated: its package holds no library for ARM")
            return None
        if task.several or task.open_sizes:
            self.notes.append(f"{path.name} is not emulated: one float sample of known size is")
            return None
        emulator = Emulator(transport)
        if emulator.note:
            self.notes.append(emulator.note)
        keys = ("qemu", "libc", "plugin", "compiler", "core")
        own = {key: str(emulator.facts.get(key, "")) for key in keys}
        facts["emulator"] = {"name": "qemu-user", "version": own.pop("qemu"), **own}
        self._notify(f"emulating {path.name} on {emulator.core}")
        return EmulatedPlace(emulator, path)

    def _work(self, place: Place | None, task: Task) -> tuple[Work | None, Work | None]:
        """Return what the artifact and its dense form cost in cycles, where they are emulated."""
        if not isinstance(place, EmulatedPlace) or not estimable(self.device):
            return None, None
        core = self.device.cluster[0].core
        dense = None if task.dense is None else place.work(task.dense, core)
        return place.work(task.path, core), dense

    def _save_anchor(
        self, host: Result, path: Path, version: str, found: tuple[Measurement, ...]
    ) -> None:
        if not self._options.save_anchor:
            return
        latency = next(
            (m for m in found if m.metric == "latency_ms" and m.kind is Kind.MEASURED), None
        )
        if latency is None or latency.value is None or self.error is not None:
            raise BadInput(
                "--save-anchor needs a sound latency that was measured on the device",
                hint="measure again on a quiet, cool device",
            )
        threads = self._options.threads
        plain = estimate(artifact_operations(path), self.device, threads=threads)
        anchor = Anchor(
            profile_sha256=self.device.digest,
            model=plain.model,
            runtime=host.runtime.name,
            runtime_version=version,
            threads=threads,
            model_sha256=host.artifact.sha256,
            measured_ms=float(latency.value),
            estimated_ms=plain.ms,
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        )
        self._notify(f"anchor saved in {save_anchor(self.device.id, anchor)}")


def open_replay(path: Path) -> tuple[DeviceProfile, Replay]:
    """Return the device of a recording and the recording itself.

    Raises:
        BadInput: Not a recording, or one that was not made by bench.
    """
    replay = Replay(path)
    stored = replay.context.get("profile")
    if stored is None:
        raise BadInput(
            f"{path} does not say which device it is of", hint="record one: bench --record FILE"
        )
    return from_json(DeviceProfile, stored, where=f"{path}: profile"), replay
