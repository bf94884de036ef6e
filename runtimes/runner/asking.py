"""Being asked for logits many times: by a search that runs here, or by who started the process."""

from __future__ import annotations

import json
import os
import sys
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sepdeploy.runtimes.runner.contract import Array, Model, Result, RunnerError, one_line
from sepdeploy.runtimes.runner.job import Job, load_model, native_calls, read_inputs

MOST = 1 << 32  # bytes of a question
LENGTH = 8  # bytes of the number before each
ANSWERED, FAILED = b"L", b"E"


def job_search(job: Job) -> Result:
    """Look for images that the model classifies wrongly, and write them with their logits."""
    from sepdeploy.attacks.patches import Search

    images = read_inputs(job)
    labels, ids = np.array(job.labels, np.int64), np.array(job.ids, np.int64)
    if not len(images) or not len(images) == len(labels) == len(ids):
        raise RunnerError("bad-input", "search needs a label and an id for every image")
    search = Search(job.norm, job.eps, job.queries, job.restarts, job.seed)
    model = load_model(job, job.model)
    batch, asked = job.batch or len(images), 0

    def predict(points: Array) -> Array:
        nonlocal asked
        asked += len(points)
        return answer(model, points, batch)

    if int(labels.max()) >= answer(model, images[:1], 1).shape[1]:
        raise RunnerError("bad-input", f"labels go up to {int(labels.max())}, the file knows fewer")
    found = search.run(predict, images, labels, ids)
    with Path(job.output).open("wb") as file:
        np.savez(file, images=found, logits=answer(model, found, batch))
    return {"version": model.version, "queries": asked, **native_calls(job, [model])}


def job_serve(job: Job) -> Result:
    """Answer one batch of images after the other with its logits, until the questions end.

    A question is the length of an .npy file and the file; an answer is a letter ("L", or "E" and a
    refusal in JSON), a length and an .npy file.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the runtime prints is no answer
    try:
        model = load_model(job, job.model)
    except BaseException:
        os.dup2(answers.fileno(), 1)  # the refusal is one
        raise
    questions, asked = sys.stdin.buffer, 0
    _send(answers, ANSWERED, b"")
    while head := questions.read(LENGTH):
        length = int.from_bytes(head, "little")
        if length > MOST:
            raise RunnerError("bad-input", f"a question of {length} bytes")
        points = np.load(BytesIO(questions.read(length)), allow_pickle=False)
        asked += len(points)
        try:
            logits = answer(model, points, job.batch or len(points))
        except RunnerError as error:
            told = {"ok": False, "error": one_line(error), "kind": error.kind, "hint": error.hint}
            _send(answers, FAILED, json.dumps(told).encode())
            continue
        written = BytesIO()
        np.save(written, logits, allow_pickle=False)
        _send(answers, ANSWERED, written.getvalue())
    return {"version": model.version, "queries": asked, **native_calls(job, [model])}


def answer(model: Model, points: Array, batch: int) -> Array:
    """Return the logits of any number of images.

    Runtimes lay a graph out anew for every batch size, so few sizes are run: ``batch``, and powers
    of two where fewer are left; the rest of one is filled up with its last image.
    """
    parts = []
    size = model.fixed or min(batch, 1 << (len(points) - 1).bit_length())
    for start in range(0, len(points), size):
        part = points[start : start + size]
        lacking = size - len(part)
        full = np.concatenate([part, np.repeat(part[-1:], lacking, axis=0)]) if lacking else part
        parts.append(model.run(np.ascontiguousarray(full))[: len(part)])
    logits: Array = np.concatenate(parts)
    return logits


def _send(stream: BinaryIO, letter: bytes, content: bytes) -> None:
    stream.write(letter + len(content).to_bytes(LENGTH, "little") + content)
    stream.flush()
