"""The runner's jobs on an emulated core.

Everything goes through the transport, so that it can be recorded and played back on a machine
that has no emulator.
"""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sepdeploy.devices.transports.base import Completed, Transport
from sepdeploy.devices.transports.qemu import BUNDLE, COUNT, COUNTS
from sepdeploy.errors import BadInput, Missing, SepdeployError
from sepdeploy.files import sha256_file

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

    def run_job(
        self,
        job: Mapping[str, Any],
        model: Path,
        *,
        inputs: Path | None = None,
        output: Path | None = None,
        counts: Path | None = None,
    ) -> dict[str, Any]:
        """Do one job on a model.

        Args:
            job: As in ``runtimes/runner``, without file names.
            model: The model file.
            inputs: A .npy file that the job reads.
            output: Where the job's .npy file goes.
            counts: Where the instruction counts at the markers go; nothing is counted when None.

        Returns:
            The runner's result. Times in it are the emulator's and mean nothing.

        Raises:
            BadInput: The model is not usable, or it takes too long.
            Missing: The runtime is not in the bundle, or a file of it is damaged.
            IllegalInstruction: The core lacks an instruction that the runtime uses.
        """
        name = f"model{model.suffix}"
        self._push(model, name)
        sent: dict[str, Any] = {"threads": 1, **job, "model": name}
        if inputs is not None:
            self._push(inputs, INPUTS)
            sent["inputs"] = INPUTS
        if output is not None:
            sent["output"] = OUTPUT
        argv = [COUNT, *RUNNER] if counts is not None else RUNNER
        text = json.dumps(sent, sort_keys=True).encode()
        done = self.transport.run(argv, stdin=text, timeout=self.timeout)
        result = self._result(done, model, name, str(job.get("runtime")))
        for remote, local in ((OUTPUT, output), (COUNTS, counts)):
            if local is not None:
                self.transport.pull(remote, local)
        return result

    def _push(self, local: Path, remote: str) -> None:
        digest = sha256_file(local)
        if self._pushed.get(remote) != digest:
            self.transport.push(local, remote)
            self._pushed[remote] = digest

    def _result(self, done: Completed, model: Path, name: str, runtime: str) -> dict[str, Any]:
        if done.signal:
            raise self._broken(done, model, runtime)
        try:
            result = json.loads(done.text.splitlines()[-1])
            good = bool(result["ok"])
        except (IndexError, ValueError, KeyError, TypeError):
            raise Missing(
                f"the emulated runner gave no answer (exit code {done.rc}): {done.error_line}",
                hint="sepdeploy doctor",
            ) from None
        if good:
            return dict(result)
        message, hint = str(result.get("error", "")), str(result.get("hint", ""))
        message = message.replace(name, str(model), 1)
        if result.get("kind") == "bad-input":
            raise BadInput(f"{message} (on the emulated {self.core})", hint=hint)
        raise Missing(message, hint=hint)

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@contextmanager
def exchange() -> Iterator[Path]:
    """Give a folder on this machine for files on their way; removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="sepdeploy-") as folder:
        yield Path(folder)
