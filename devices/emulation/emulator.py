"""The runner's jobs on an emulated core.

Everything goes through the transport, so that it can be recorded and played back on a machine
that has no emulator.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, Self

from sepdeploy.devices.transports.base import Completed, Transport
from sepdeploy.devices.transports.qemu import BLOCKS, BUNDLE, COUNT, COUNTS, RECORD
from sepdeploy.errors import BadInput, Missing, SepdeployError
from sepdeploy.files import sha256_file
from sepdeploy.jobs import Answer, Job, NoAnswer, Refused, read_answer

TIMEOUT_S = 900.0
LOADER = "ld-linux-aarch64.so.1"
RUNNER = [f"{BUNDLE}/{LOADER}", "--library-path", BUNDLE, f"{BUNDLE}/runner"]
INPUTS, OUTPUT = "inputs.npy", "logits.npy"


class IllegalInstruction(SepdeployError):
    """The program uses an instruction that the device's core does not have."""


class Emulator:
    """Does jobs of the compiled runner over a transport; a context manager that closes it.

    Args:
        transport: A ``QemuTransport``, or a recorder or replay of one.
        timeout: Seconds that one job may take.

    Attributes:
        facts: What the numbers depend on: core, whether it is the device's own, versions of
            emulator, plugin, C library and runtimes.
    """

    def __init__(self, transport: Transport, *, timeout: float = TIMEOUT_S) -> None:
        self.transport = transport
        self.timeout = timeout
        # Sorted, as a recording gives them back, so that a report from it is the same text.
        self.facts: dict[str, Any] = dict(sorted(transport.facts().items()))
        self._pushed: dict[str, str] = {}

    @property
    def core(self) -> str:
        """The emulated core."""
        return str(self.facts.get("core", ""))

    @property
    def note(self) -> str:
        """Which core stands in for the device's own, "" when none does."""
        return str(self.facts.get("core_note", ""))

    def runtime_version(self, runtime: str) -> str:
        """Return the version of a runtime in the bundle.

        Raises:
            Missing: The bundle does not hold it.
        """
        versions = self.facts.get("runtimes", {})
        if runtime not in versions:
            raise Missing(
                f"{runtime} cannot be emulated", hint=f"use one of {', '.join(sorted(versions))}"
            )
        return str(versions[runtime])

    def details(self, runtime: str) -> dict[str, object]:
        """Return what a number in this runtime depends on.

        Raises:
            Missing: The bundle does not hold the runtime.
        """
        other = ("runtimes", "transport", "address")
        return {
            **{key: value for key, value in self.facts.items() if key not in other},
            "emulated_runtime": runtime,
            "emulated_runtime_version": self.runtime_version(runtime),
        }

    def run_job(
        self, job: Job, *, counts: Path | None = None, blocks: Path | None = None
    ) -> Answer:
        """Do one job on a model; the emulator's clock says nothing, so no answer holds times.

        Args:
            job: With paths of this machine.
            counts: Where the instruction counts at the markers go; nothing is counted when None.
            blocks: Where what is executed goes; nothing is recorded when None.

        Raises:
            BadInput: The model is not usable, or it takes too long.
            Missing: The runtime is not in the bundle, or a file of it is damaged.
            IllegalInstruction: The core lacks an instruction that the runtime uses.
        """
        (model,) = job.models.values()

        def sent(path: Path) -> str:
            name = INPUTS if path == job.inputs else f"model{path.suffix}"
            self._push(path, name)
            return name

        plugin = [COUNT] if counts is not None else [RECORD] if blocks is not None else []
        argv = [*plugin, *RUNNER]
        text = json.dumps(job.wire(sent, OUTPUT), sort_keys=True).encode()
        done = self.transport.run(argv, stdin=text, timeout=self.timeout)
        answer = self._read(done, job, model)
        for remote, local in ((OUTPUT, job.output), (COUNTS, counts), (BLOCKS, blocks)):
            if local is not None:
                self.transport.pull(remote, local)
        return answer

    def _push(self, local: Path, remote: str) -> None:
        digest = sha256_file(local)
        if self._pushed.get(remote) != digest:
            self.transport.push(local, remote)
            self._pushed[remote] = digest

    def _read(self, done: Completed, job: Job, model: Path) -> Answer:
        if done.signal:
            raise self._broken(done, model, job.runtime)
        try:
            return read_answer(done.stdout, job, clock=False)
        except NoAnswer:
            raise Missing(
                f"the emulated runner gave no answer (exit code {done.rc}): {done.error_line}",
                hint="sepdeploy doctor",
            ) from None
        except Refused as refused:
            message = refused.message.replace(f"model{model.suffix}", str(model), 1)
            if refused.kind == "bad-input":
                message += f" (on the emulated {self.core})"
                raise BadInput(message, hint=refused.hint) from None
            raise Missing(message, hint=refused.hint) from None

    def _broken(self, done: Completed, model: Path, runtime: str) -> SepdeployError:
        version = self.facts.get("runtimes", {}).get(runtime, "")
        who = f"{runtime} {version}".strip()
        if done.signal == signal.SIGILL:
            return IllegalInstruction(
                f"{model}: {who} uses an instruction that {self.core} does not have (SIGILL)",
                hint="the device cannot run it: use another runtime, version or quantisation",
            )
        try:
            how = signal.Signals(done.signal).name
        except ValueError:
            how = f"signal {done.signal}"
        return BadInput(
            f"{model}: {who} broke down on it on the emulated {self.core}, {how}",
            hint="is the file what it should be? does the runtime of this machine run it?",
        )

    def close(self) -> None:
        """Close the transport."""
        self.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
