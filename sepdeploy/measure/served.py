"""A file that answers one batch after the other, in a child process that loads it once.

An attack asks hundreds of times, each question depending on the last answer. The file stays in a
process of its own: what crashes its runtime ends that and not the attack's.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sepdeploy.errors import BadInput
from sepdeploy.files import scratch
from sepdeploy.jobs import MOST_ARRAY, Job, NoAnswer, Refused, read_answer
from sepdeploy.measure.child import (
    TIMEOUT_S,
    crash,
    environment,
    memory_limit,
    native_libraries,
    refusal,
)
from sepdeploy.programs import tied
from sepdeploy.runtimes import packing
from sepdeploy.runtimes.runner.asking import ANSWERED, LENGTH

Floats = npt.NDArray[np.float32]


@contextmanager
def served(path: Path, runtime: str, *, batch: int = 32, threads: int = 1) -> Iterator[Served]:
    """Open a file in a runtime for questions; native kernels run its custom nodes where they can.

    Args:
        path: The artifact.
        runtime: A name of ``runtimes.RUNTIMES``.
        batch: Images that are run at once.
        threads: Threads of the runtime.

    Raises:
        BadInput: The file is not usable in this runtime.
        Missing: The runtime is not installed.
    """
    job = Job("serve", runtime, {"artifact": path}, {"batch": batch}, threads)
    sent = {"memory_limit": memory_limit(), **job.wire()}
    sent["native"] = native_libraries([str(path)], runtime)
    with scratch() as folder, tempfile.TemporaryFile(dir=folder) as said:
        process = subprocess.Popen(
            tied([sys.executable, "-P", str(packing.write_runner(folder))]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env=environment(threads),
            start_new_session=True,
            bufsize=0,
        )
        try:
            own = Served(job, process, said.fileno())
            own.put(json.dumps(sent).encode() + b"\n")
            own.take()  # it is loaded
            yield own
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
            process.kill()
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]


@dataclass(frozen=True)
class Served:
    """A file in its process; calling it asks for logits.

    Attributes:
        job: What the process was started with.
        process: The process.
        errors: Descriptor of the file that holds what it said on standard error.
    """

    job: Job
    process: subprocess.Popen[bytes]
    errors: int

    def __call__(self, images: Floats) -> Floats:
        """Return the logits (N, classes) of images (N, *shape).

        Raises:
            BadInput: The file cannot run them, breaks down or takes too long.
        """
        question = BytesIO()
        np.save(question, np.ascontiguousarray(images, dtype=np.float32), allow_pickle=False)
        text = question.getvalue()
        self.put(len(text).to_bytes(LENGTH, "little") + text)
        try:
            logits: Floats = np.load(BytesIO(self.take()), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise self._odd(str(error)) from error
        if logits.dtype != np.float32 or logits.ndim != 2 or len(logits) != len(images):
            raise self._odd(f"{logits.dtype} {logits.shape}")
        return logits

    def put(self, content: bytes) -> None:
        """Send a question; that nobody reads it is seen when the answer is taken."""
        assert self.process.stdin is not None
        view = memoryview(content)
        with contextlib.suppress(BrokenPipeError):
            while view:
                view = view[self.process.stdin.write(view) :]

    def take(self) -> bytes:
        """Return the content of the next answer.

        Raises:
            BadInput: It is a refusal, or there is none.
        """
        letter = self._read(1)
        length = int.from_bytes(self._read(LENGTH), "little") if letter in (b"L", b"E") else -1
        if not 0 <= length <= MOST_ARRAY:
            raise self._ended(letter)
        content = self._read(length)
        if letter == ANSWERED:
            return content
        try:
            read_answer(content, self.job)
        except Refused as refused:
            raise refusal(self.job, refused) from None
        except NoAnswer:
            pass
        raise self._odd("no refusal")

    def _read(self, count: int) -> bytes:
        assert self.process.stdout is not None
        parts: list[bytes] = []
        left = count
        while left:
            ready, _, _ = select.select([self.process.stdout], [], [], TIMEOUT_S)
            if not ready:
                raise BadInput(
                    f"{self.job.subject}: no answer within {TIMEOUT_S:.0f} s in {self.job.runtime}",
                    hint="is the file what it should be? else try fewer samples",
                )
            part = self.process.stdout.read(left)
            if not part:
                raise self._ended(b"".join(parts))
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _ended(self, begun: bytes) -> Exception:
        """Return the error for a process that gave no answer, or a refusal to load the file."""
        assert self.process.stdout is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        self.process.kill()
        rest = begun + self.process.stdout.read()
        try:
            read_answer(rest, self.job)
        except Refused as refused:
            return refusal(self.job, refused)
        except NoAnswer:
            pass
        return crash(self.job, self.process.wait(), os.pread(self.errors, 1 << 16, 0))

    def _odd(self, what: str) -> BadInput:
        return BadInput(
            f"{self.job.subject}: {self.job.runtime} answered with no logits: {what}",
            hint="is the file what it should be?",
        )
