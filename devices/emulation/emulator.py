"""Runs programs and the runner's jobs on an emulated core.

What the emulated program can see is the same on every machine and in every call: environment,
arguments, file names, the board's description. The scratch folder holds everything under fixed
names, and the program's working folder is that folder, so that no path of this machine comes in.
"""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sepdeploy.devices.bundle.build import Bundle
from sepdeploy.devices.emulation.cores import EmulatedCore
from sepdeploy.devices.emulation.qemu import PLUGIN_VERSION, Qemu
from sepdeploy.errors import BadInput, Missing, SepdeployError

TIMEOUT_S = 900.0
ENVIRONMENT = {"LC_ALL": "C", "HOME": "/", "PATH": "/usr/bin:/bin", "TF_CPP_MIN_LOG_LEVEL": "3"}
COUNTS = "counts.txt"


@dataclass(frozen=True)
class Ended:
    """How an emulated program ended; ``signal`` is 0 when it exited by itself."""

    rc: int
    stdout: bytes
    stderr: bytes

    @property
    def signal(self) -> int:
        """The signal that ended the program, 0 when none did."""
        return -self.rc if self.rc < 0 else 0


class IllegalInstruction(SepdeployError):
    """The program uses an instruction that the device's core does not have."""


@dataclass(frozen=True)
class Emulator:
    """Everything that is needed to emulate one core: see ``setup.open_emulator``."""

    target: EmulatedCore
    qemu: Qemu
    plugin: Path
    view: Path
    bundle: Bundle
    timeout: float = field(default=TIMEOUT_S, compare=False)

    def facts(self) -> dict[str, Any]:
        """Return what the numbers depend on, as plain JSON values."""
        facts: dict[str, Any] = {
            "core": self.target.core.name,
            "core_exact": self.target.exact,
            "qemu": self.qemu.version,
            "plugin": PLUGIN_VERSION,
            "libc": self.bundle.versions.get("libc6", ""),
            "runner": "compiled",
        }
        if self.target.note:
            facts["core_note"] = self.target.note
        return facts

    def execute(
        self,
        argv: Sequence[str],
        *,
        folder: Path,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        count: bool = False,
        timeout: float | None = None,
    ) -> Ended:
        """Run an AArch64 program to its end.

        Args:
            argv: The program, relative to ``folder`` or absolute, and its arguments.
            folder: Where it starts.
            stdin: What it can read.
            env: Variables added to the fixed environment.
            count: Write the instruction counts at its markers to ``counts.txt`` in ``folder``.
            timeout: Seconds.

        Raises:
            BadInput: It did not end in time.
        """
        command = [self.qemu.path, "-cpu", self.target.core.name, "-L", str(self.view)]
        if count:
            # The emulator's option parser reads two commas as one.
            out = str(folder / COUNTS).replace(",", ",,")
            command += ["-plugin", f"{str(self.plugin).replace(',', ',,')},out={out}"]
        limit = timeout or self.timeout
        try:
            done = subprocess.run(
                [*command, *argv],
                input=stdin,
                capture_output=True,
                cwd=folder,
                env={**ENVIRONMENT, **(env or {})},
                timeout=limit,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise BadInput(
                f"{argv[-1]}: did not end within {limit:.0f} s on the emulated "
                f"{self.target.core.name}",
                hint="use fewer samples (--samples), or a smaller model",
            ) from error
        return Ended(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give a folder with the bundle under the name ``b``; removed afterwards."""
        with tempfile.TemporaryDirectory(prefix="sepdeploy-") as name:
            folder = Path(name)
            (folder / "b").symlink_to(self.bundle.folder)
            yield folder

    def run_job(
        self, job: Mapping[str, Any], model: Path, *, folder: Path, count: bool = False
    ) -> dict[str, Any]:
        """Do one of the compiled runner's jobs on a model.

        Args:
            job: As in ``runtimes/runner.py``, without ``model``; files it names lie in ``folder``.
            model: The model file on this machine.
            folder: A folder from ``scratch``.
            count: As in ``execute``.

        Returns:
            The runner's result. Times in it are the emulator's and mean nothing.

        Raises:
            BadInput: The model is not usable.
            Missing: The runtime is not in the bundle, or a file of it is damaged.
            IllegalInstruction: The core lacks an instruction that the runtime uses.
        """
        name = "model" + model.suffix
        if not (folder / name).exists():
            if not model.is_file():
                raise BadInput(f"cannot read {model}: no such file")
            (folder / name).symlink_to(model.resolve())
        job = {"threads": 1, **job, "model": name}
        ended = self.execute(
            self.bundle.command("b"), folder=folder, stdin=json.dumps(job).encode(), count=count
        )
        return self._result(ended, model, str(job.get("runtime")))

    def _result(self, ended: Ended, model: Path, runtime: str) -> dict[str, Any]:
        if ended.signal:
            raise self._broken(ended, model, runtime)
        try:
            result = json.loads(ended.stdout.decode(errors="replace").strip().splitlines()[-1])
            good = bool(result["ok"])
        except (IndexError, ValueError, KeyError, TypeError):
            last = ended.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise Missing(
                f"the emulated runner gave no answer (exit {ended.rc})"
                + (f": {last[0][:200]}" if last else ""),
                hint="sepdeploy doctor",
            ) from None
        if good:
            return dict(result)
        message = str(result.get("error", "")).replace("model" + model.suffix, str(model), 1)
        hint = str(result.get("hint", ""))
        if result.get("kind") == "bad-input":
            raise BadInput(message, hint=hint)
        raise Missing(message, hint=hint)

    def _broken(self, ended: Ended, model: Path, runtime: str) -> SepdeployError:
        version = self.bundle.versions.get(runtime, "")
        who, core = f"{runtime} {version}".strip(), self.target.core.name
        if ended.signal == signal.SIGILL:
            return IllegalInstruction(
                f"{model}: {who} uses an instruction that {core} does not have (SIGILL)",
                hint="the device cannot run it: use another runtime, version or quantisation",
            )
        name = signal.Signals(ended.signal).name
        return BadInput(
            f"{model}: {who} broke down on it on the emulated {core}, {name}",
            hint="is the file what it should be? does the runtime of this machine run it?",
        )
