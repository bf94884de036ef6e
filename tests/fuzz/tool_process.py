"""The tool as a process that takes command lines on standard input, one JSON list a line.

It answers each with {"code", "err", "restarts"}. What runs an artifact is one child of it that
lives on from job to job and is started again when a file has killed it: starting a runtime for
each of thousands of files would take hours.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import subprocess
import sys
import time
import traceback
from typing import Any

RUNNER = """
import json, sys
from sepdeploy.runtimes.runner.main import execute
limited = False
for line in sys.stdin:
    job = json.loads(line)
    if limited:
        job["memory_limit"] = 0
    limited = True
    result = execute(job)
    sys.stdout.write("\\n" + json.dumps(result) + "\\n#end\\n")
    sys.stdout.flush()
"""
TIMEOUT_S = 20.0


class Runner:
    """The long-lived child."""

    def __init__(self) -> None:
        self.process: Any = None
        self.starts = 0

    def ask(self, job: bytes, timeout: float) -> tuple[bytes, int | None]:
        """Return what it wrote and, if it has ended, its exit status.

        Raises:
            TimeoutExpired: It did not answer; it has been ended.
        """
        if self.process is None or self.process.poll() is not None:
            self.starts += 1
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", RUNNER], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(job.replace(b"\n", b" ") + b"\n")
            self.process.stdin.flush()
        out, ends = b"", time.monotonic() + timeout
        handle = self.process.stdout.fileno()
        while not out.endswith(b"\n#end\n"):
            ready, _, _ = select.select([handle], [], [], max(0.0, ends - time.monotonic()))
            if not ready:
                self.process.kill()
                self.process.wait()
                raise subprocess.TimeoutExpired("runner", timeout)
            piece = os.read(handle, 1 << 16)
            if not piece:
                return out, self.process.wait()
            out += piece
        return out.removesuffix(b"#end\n"), None


RUNNING = Runner()


class Popen:
    """Stands in for the process that ``measure.child`` starts for each job."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.returncode: int | None = None

    def communicate(self, job: bytes = b"", timeout: float = TIMEOUT_S) -> tuple[bytes, bytes]:
        """Pass the job on."""
        out, status = RUNNING.ask(job, min(timeout, TIMEOUT_S))
        self.returncode = 0 if status is None else status
        return out, b""

    def poll(self) -> int | None:
        """It is over when its answer is there."""
        return 0 if self.returncode is None else self.returncode

    def kill(self) -> None:
        """Nothing to end."""


class Subprocess:
    """What ``measure.child`` sees as the module ``subprocess``."""

    Popen = Popen
    PIPE = subprocess.PIPE
    TimeoutExpired = subprocess.TimeoutExpired


def prepare() -> None:
    """Use the long-lived runner, and time as little as possible."""
    from dataclasses import fields

    from sepdeploy.measure import child
    from sepdeploy.measure.latency import Timing

    child.subprocess = Subprocess  # type: ignore[attr-defined]
    quick = {"warmup": 1, "min_rounds": 3, "min_seconds": 0.0, "max_seconds": 0.0, "block_us": 20.0}
    usual = zip(fields(Timing), Timing.__init__.__defaults__ or (), strict=True)
    chosen = tuple(quick.get(field.name, value) for field, value in usual)
    Timing.__init__.__defaults__ = chosen  # type: ignore[misc]


def main() -> None:
    """Answer command lines until standard input ends."""
    from sepdeploy.cli import run

    prepare()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not mix with the answers
    for line in sys.stdin:
        err = io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            try:
                code = run(json.loads(line))
            except BaseException:
                code = 70
                traceback.print_exc(file=err)
        answer = {"code": code, "err": err.getvalue()[-4000:], "starts": RUNNING.starts}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
