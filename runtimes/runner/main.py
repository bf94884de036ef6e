"""From a job in JSON to an answer in JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sepdeploy.runtimes.runner.asking import job_search, job_serve
from sepdeploy.runtimes.runner.contract import Result, RunnerError, one_line
from sepdeploy.runtimes.runner.job import Job, read_job
from sepdeploy.runtimes.runner.memory import job_memory, limit_memory
from sepdeploy.runtimes.runner.running import (
    job_optimize,
    job_outputs,
    job_ranges,
    job_run,
    job_values,
)
from sepdeploy.runtimes.runner.timing import job_latency

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)  # numpy says no number
EXIT_CODES = {"bad-input": 2, "no-room": 2, "missing": 4, "internal": 70}

MODES: dict[str, Callable[[Job], Result]] = {
    "run": job_run,
    "latency": job_latency,
    "memory": job_memory,
    "outputs": job_outputs,
    "values": job_values,
    "ranges": job_ranges,
    "optimize": job_optimize,
    "search": job_search,
    "serve": job_serve,
}


def execute(said: Any) -> Result:
    """Do one job, read from JSON; every failure becomes a result with ``ok`` false."""
    try:
        if not isinstance(said, dict) or said.get("mode") not in MODES:
            raise RunnerError("bad-input", f"job needs a mode out of {', '.join(MODES)}")
        job = read_job(said)
        limit_memory(job.memory_limit)
        result = MODES[job.mode](job)
    except RunnerError as error:
        return {"ok": False, "error": str(error), "kind": error.kind, "hint": error.hint}
    except ImportError as error:
        return {"ok": False, "error": one_line(error), "kind": "missing", "hint": ""}
    except MemoryError:
        return {"ok": False, "error": "out of memory", "kind": "bad-input", "hint": ""}
    except OSError as error:
        kind = "no-room" if error.errno in FULL else "internal"
        hint = "free some space; TMPDIR names another folder for temporary files"
        return {"ok": False, "error": one_line(error), "kind": kind, "hint": hint}
    except Exception as error:  # the reader of the JSON must always get an answer
        text = f"{type(error).__name__}: {one_line(error)}"
        return {"ok": False, "error": text, "kind": "internal", "hint": ""}
    facts = {
        "runtime": job.runtime,
        "threads": job.threads,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
    }
    return {"ok": True, "mode": job.mode, **facts, **identity(job), **result}


def identity(job: Job) -> Result:
    """Return the name of a job that has one, and the digests of the files that it was about."""
    if not job.id:
        return {}
    return {"id": job.id, "sha256": [file_digest(m.path) for m in job.models]}


def file_digest(path: str) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()  # file_digest came with Python 3.11
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def main() -> int:
    """Read a job from standard input, print the result as the last line of standard output."""
    try:
        # What follows the line is the job's own.
        said = json.loads(getattr(sys.stdin, "buffer", sys.stdin).readline())
    except ValueError as error:
        said = None
        sys.stderr.write(f"job is not JSON: {one_line(error)}\n")
    result = execute(said)
    sys.stdout.flush()
    sys.stdout.write("\n" + json.dumps(result) + "\n")
    sys.stdout.flush()
    return 0 if result["ok"] else EXIT_CODES.get(result["kind"], 70)
