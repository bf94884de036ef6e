"""Runs the runner's jobs in a child process: a file that crashes its runtime ends only that."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sepdeploy import runtimes
from sepdeploy.errors import BadInput, Missing, SepdeployError
from sepdeploy.runtimes import packing
from sepdeploy.runtimes.runner.contract import one_line

TIMEOUT_S = 900.0
LEAST_MEMORY = 4 << 30  # bytes of address space that a runtime needs in any case
KEPT_VARIABLES = ("PATH", "HOME", "LD_LIBRARY_PATH", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV")


def run_job(job: Mapping[str, Any], *, timeout: float = TIMEOUT_S) -> dict[str, Any]:
    """Run one job in a fresh child process and return its result.

    The child gets a small fixed environment, a limit of memory (unless the job names its own) and
    ``timeout`` seconds; it is ended when the caller is interrupted. Custom nodes run in native
    kernels, where those are built and fit the file, unless the job says what runs them
    (``native``); the result's ``native_calls`` tells whether they did.

    Args:
        job: See ``sepdeploy.runtimes.runner``; paths may be relative to the current folder.
        timeout: Seconds.

    Raises:
        BadInput: A file is not usable, crashes the runtime, needs too much memory or time.
        Missing: The runtime is not installed.
    """
    job = {"memory_limit": memory_limit(), "threads": 1, **job}
    if "native" not in job:
        job["native"] = native_libraries(_paths(job), str(job.get("runtime")))
    with scratch() as folder:
        return _in_child(job, packing.write_runner(folder), timeout)


def _in_child(job: Mapping[str, Any], program: Path, timeout: float) -> dict[str, Any]:
    subject = _subject(job)
    process = subprocess.Popen(
        [sys.executable, "-P", str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(int(job["threads"])),
        start_new_session=True,  # the parent decides what Ctrl-C means
    )
    try:
        with contextlib.suppress(BrokenPipeError):
            out, err = process.communicate(json.dumps(job).encode(), timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise BadInput(
            f"{subject}: did not finish within {timeout:.0f} s in {job.get('runtime')}",
            hint="is the file what it should be? else try a smaller batch or fewer samples",
        ) from error
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    return _result(job, subject, process.returncode, out, err)


def native_libraries(paths: Sequence[str], runtime: str) -> dict[str, str]:
    """Return the native library of each file whose custom nodes one may run.

    Files that cannot be read have none: the child says what is wrong with them.
    """
    found = {}
    for path in paths:
        with contextlib.suppress(BadInput):
            if library := runtimes.custom_nodes(path, runtime).library:
                found[path] = library
    return found


def run_logits(
    path: str | os.PathLike[str],
    runtime: str,
    inputs: npt.NDArray[np.float32],
    *,
    batches: Sequence[int] = (32,),
    threads: int = 1,
    native: Mapping[str, str] | None = None,
) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    """Run samples through an artifact in a child process.

    Args:
        path: The artifact.
        runtime: A name of ``runtimes.RUNTIMES``.
        inputs: float32 (N, *shape), NCHW or NF.
        batches: All N samples are run once for each of these batch sizes.
        threads: Threads of the runtime.
        native: What runs its custom nodes (``runner``); by default the best there is.

    Returns:
        Logits (len(batches), N, classes), and the runner's result with its facts.

    Raises:
        BadInput: The artifact or the inputs are not usable.
        Missing: The runtime is not installed.
    """
    with scratch() as folder:
        source, target = folder / "inputs.npy", folder / "logits.npy"
        np.save(source, np.asarray(inputs, dtype=np.float32), allow_pickle=False)
        job = {
            "mode": "run",
            "runtime": runtime,
            "threads": threads,
            "model": os.fspath(path),
            "inputs": str(source),
            "batches": list(batches),
            "output": str(target),
            **({} if native is None else {"native": dict(native)}),
        }
        result = run_job(job)
        logits: npt.NDArray[np.float32] = np.load(target, allow_pickle=False)
    return logits, result


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a temporary folder that is removed afterwards, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="sepdeploy-") as folder:
        yield Path(folder)


def environment(threads: int) -> dict[str, str]:
    """Return the fixed environment of a child: the same on every call, so that runs compare."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    fixed = {"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
    counts = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    return kept | fixed | counts


def memory_limit() -> int:
    """Return how many bytes of address space a child may take: most of what is free now."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        line = next(line for line in text.splitlines() if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 0
    return max(LEAST_MEMORY, int(line.split()[1]) * 1024 * 4 // 5)


def _paths(job: Mapping[str, Any]) -> list[str]:
    """Return the files that a job loads."""
    if "model" in job:
        return [str(job["model"])]
    return [str(m.get("path")) for m in job.get("models", ())]


def _subject(job: Mapping[str, Any]) -> str:
    """Return the file or files that a job is about."""
    return ", ".join(_paths(job)) or "job"


def _result(
    job: Mapping[str, Any], subject: str, code: int, out: bytes, err: bytes
) -> dict[str, Any]:
    """Return the result that a finished child wrote, or raise what its end means."""
    lines = out.decode(errors="replace").strip().splitlines()
    try:
        result = json.loads(lines[-1])
        if not isinstance(result, dict) or "ok" not in result:
            raise ValueError
    except (IndexError, ValueError):
        raise _crash(job, subject, code, err) from None
    if result["ok"]:
        return result
    message, hint, kind = str(result["error"]), str(result.get("hint", "")), result.get("kind")
    if kind == "missing":
        raise Missing(message, hint=hint)
    if kind == "bad-input":
        where = "" if any(p in message for p in subject.split(", ")) else f"{subject}: "
        raise BadInput(f"{where}{message}", hint=hint)
    raise SepdeployError(f"{subject}: the runner failed: {message}", hint=hint)


def _crash(job: Mapping[str, Any], subject: str, code: int, err: bytes) -> SepdeployError:
    """Return the error for a child that ended without an answer."""
    if code < 0:
        try:
            how = signal.Signals(-code).name
        except ValueError:
            how = f"signal {-code}"
        why = " (out of memory?)" if how == "SIGKILL" else ""
    else:
        how, why = f"exit code {code}", ""
    last = one_line(err.decode(errors="replace").strip().splitlines()[-1:] or "")
    return BadInput(
        f"{subject}: {job.get('runtime')} broke down on it, {how}{why}",
        hint="the file is damaged or hostile, or its runtime has a bug"
        + (f"; it said: {last}" if last else ""),
    )


def every_runtime(path: str | os.PathLike[str], chosen: Sequence[str] | None) -> tuple[str, ...]:
    """Return the runtimes to use for a file: the chosen ones, else every installed one.

    Raises:
        BadInput: A name is unknown or takes another format.
        Missing: None is installed.
    """
    if chosen:
        return tuple(runtimes.choose(path, name) for name in chosen)
    preferred = runtimes.choose(path, None)
    return runtimes.installed(runtimes.RUNTIMES[preferred].format)
