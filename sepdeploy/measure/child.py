"""Runs the runner's jobs in a child process: a file that crashes its runtime ends only that."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sepdeploy import runtimes
from sepdeploy.errors import RUN_IT, BadInput, Missing, NoRoom, SepdeployError
from sepdeploy.files import scratch
from sepdeploy.jobs import (
    Answer,
    Job,
    NoAnswer,
    Refused,
    logits_job,
    read_answer,
    read_logits,
    read_outputs,
)
from sepdeploy.programs import tied
from sepdeploy.runtimes import packing
from sepdeploy.runtimes.runner.contract import one_line

TIMEOUT_S = 900.0
LEAST_MEMORY = 4 << 30  # bytes of address space that a runtime needs in any case
KEPT_VARIABLES = ("PATH", "HOME", "LD_LIBRARY_PATH", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV")


def run_job(job: Job, *, timeout: float = TIMEOUT_S) -> Answer:
    """Run one job in a fresh child process and return its answer.

    The child gets a small fixed environment, a limit of memory (unless the job names its own) and
    ``timeout`` seconds; it is ended when the caller is interrupted. Custom nodes run in native
    kernels, where those are built and fit the file, unless the job says what runs them
    (``native``); the answer's ``native_calls`` tells whether they did.

    Args:
        job: Its paths may be relative to the current folder.
        timeout: Seconds.

    Raises:
        BadInput: A file is not usable, crashes the runtime, needs too much memory or time.
        Missing: The runtime is not installed.
    """
    sent = {"memory_limit": memory_limit(), **job.wire()}
    if "native" not in sent:
        sent["native"] = native_libraries(list(map(str, job.models.values())), job.runtime)
    with scratch() as folder:
        return _in_child(
            job, json.dumps(sent).encode(), packing.write_runner(folder), timeout + job.patience
        )


def _in_child(job: Job, text: bytes, program: Path, timeout: float) -> Answer:
    process = subprocess.Popen(
        tied([sys.executable, "-P", str(program)]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(job.threads or 1),
        start_new_session=True,  # the parent decides what Ctrl-C means
    )
    try:
        with contextlib.suppress(BrokenPipeError):
            out, err = process.communicate(text, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise BadInput(
            f"{job.subject}: did not finish within {timeout:.0f} s in {job.runtime}",
            hint="is the file what it should be? else try a smaller batch or fewer samples",
        ) from error
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    try:
        return read_answer(out, job)
    except NoAnswer:
        raise crash(job, process.returncode, err) from None
    except Refused as refused:
        raise refusal(job, refused) from None


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
) -> tuple[npt.NDArray[np.float32], Answer]:
    """Run samples through an artifact in a child process.

    Args:
        path: The artifact.
        runtime: A name of ``runtimes.RUNTIMES``.
        inputs: float32 (N, *shape), NCHW or NF.
        batches: All N samples are run once for each of these batch sizes.
        threads: Threads of the runtime.
        native: What runs its custom nodes (``runner``); by default the best there is.

    Returns:
        Logits (len(batches), N, classes), and the runner's answer.

    Raises:
        BadInput: The artifact or the inputs are not usable.
        Missing: The runtime is not installed.
    """
    with scratch() as folder:
        job = logits_job(
            Path(path), runtime, np.asarray(inputs), folder, batches=batches, threads=threads
        )
        if native is not None:
            job = replace(job, settings={**job.settings, "native": dict(native)})
        answer = run_job(job)
        return read_logits(job, len(batches), len(inputs)), answer


def run_outputs(
    path: str | os.PathLike[str],
    runtime: str,
    inputs: Sequence[npt.NDArray[Any]] = (),
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
) -> tuple[tuple[npt.NDArray[Any], ...], dict[str, npt.NDArray[Any]]]:
    """Run a file of any inputs and outputs once, in a child process.

    Args:
        path: The artifact.
        runtime: A name of ``runtimes.RUNTIMES``.
        inputs: In the file's order, images N,C,H,W; none: they are made up.
        shapes: Open sizes of made-up inputs, by their names.
        seed: Of these.

    Returns:
        The inputs, and the outputs by name.

    Raises:
        BadInput: The artifact or the inputs are not usable.
        Missing: The runtime is not installed.
    """
    with scratch() as folder:
        source = folder / "inputs.npz" if len(inputs) else None
        if source is not None:
            np.savez(source, **{f"input{i}": array for i, array in enumerate(inputs)})
        target, settings = folder / "outputs.npz", {"seed": seed}
        job = Job("outputs", runtime, {"artifact": Path(path)}, settings, 1, source, target)
        answer = run_job(job.fixed(shapes or {}))
        return read_outputs(job, answer.found)


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


def refusal(job: Job, refused: Refused) -> SepdeployError:
    """Return the error for what the child could not do."""
    message, hint = refused.message, refused.hint or RUN_IT
    if refused.kind == "missing":
        return Missing(message, hint=hint)
    if refused.kind == "no-room":
        return NoRoom(f"{job.subject}: cannot write temporary files: {message}", hint=hint)
    if refused.kind == "bad-input":
        named = any(str(path) in message for path in job.models.values())
        return BadInput(message if named else f"{job.subject}: {message}", hint=hint)
    return SepdeployError(f"{job.subject}: the runner failed: {message}", hint=hint)


def crash(job: Job, code: int, err: bytes) -> SepdeployError:
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
        f"{job.subject}: {job.runtime} broke down on it, {how}{why}",
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
