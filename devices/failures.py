"""What it means when a runner on a device ends without an answer."""

from __future__ import annotations

from sepdeploy.devices.transports.base import Completed
from sepdeploy.errors import BadInput, Missing, SepdeployError
from sepdeploy.jobs import Job

PYTHON = "python3"
# A system's own Python refuses pip (PEP 668), an environment of one's own takes it.
INSTALL = "on the device: python3 -m venv ~/sepdeploy && ~/sepdeploy/bin/pip install {packages}"
THEN = "; then --python '~/sepdeploy/bin/python'"
SIGILL, SIGKILL = 4, 9


def crash(done: Completed, job: Job, *, where: str, program: str, bound: bool) -> SepdeployError:
    """Return the error for a runner that ended without an answer.

    Args:
        done: Its end.
        job: What it was to do.
        where: Names the device.
        program: What was started, in a word.
        bound: Whether it was started through ``taskset``.
    """
    said = done.error_line
    text = done.stderr.decode(errors="replace")
    if "No module named 'numpy'" in text:
        return Missing(
            f"{where}: numpy is not installed for {program}",
            hint=install_there(program, "onnxruntime ai-edge-litert"),
        )
    if "xec format error" in text or "not executable: " in text:
        return Missing(
            f"{where}: {program} is built for another architecture: {said}",
            hint="is the device what its profile says? sepdeploy devices show ID",
        )
    if "No space left" in text:
        return Missing(
            f"{where}: the disk is full: {said}",
            hint="free some space on the device, or set transport.workdir in its profile",
        )
    if bound and "taskset" in said and done.rc in (126, 127):
        return Missing(
            f"{where}: no taskset there to bind to cores: {said}",
            hint="on the device: sudo apt install util-linux",
        )
    if done.rc in (126, 127):
        return Missing(
            f"{where}: no {program} there: {said or f'exit code {done.rc}'}",
            hint=install_there(program, "onnxruntime ai-edge-litert")
            if program == PYTHON
            else "check --python or transport.python in the device profile, or the --runner given",
        )
    return _ended(done, job, where)


def install_there(program: str, packages: str) -> str:
    """Return how packages are installed for a Python on the device."""
    if program == PYTHON:
        return INSTALL.format(packages=packages) + THEN
    return f"on the device: {program} -m pip install {packages}"


def unusable_python(done: Completed, where: str, python: str) -> Missing:
    """Return the error for a Python that was named and cannot run the runner."""
    if done.rc in (126, 127):
        what, hint = (
            f"no {python} there",
            "--python takes a path on the device, as '~/venv/bin/python'",
        )
    else:
        what = f"{python} has no numpy: {done.error_line}"
        hint = install_there(python, "onnxruntime ai-edge-litert")
    return Missing(f"{where}: {what}", hint=hint)


def _ended(done: Completed, job: Job, where: str) -> SepdeployError:
    """Return the error for a runner that a signal or its own fault ended."""
    runtime, said = job.runtime, done.error_line
    if done.signal == SIGKILL:
        return Missing(
            f"{where}: the run was killed there; it ran out of memory, or somebody ended it",
            hint="free memory on the device, or measure a smaller model",
        )
    if done.signal == SIGILL:
        return Missing(
            f"{where}: {runtime} there uses an instruction that its processor lacks (SIGILL)",
            hint=f"install another build or version of {runtime} on the device",
        )
    how = f"signal {done.signal}" if done.signal else f"exit code {done.rc}"
    return BadInput(
        f"{where}: {runtime} broke down on {job.subject}, {how}",
        hint="the file is damaged, or its runtime has a bug"
        + (f"; it said: {said}" if said else ""),
    )
