"""Jobs whose images and logits lie in files: how these are written, and read without trust."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sepdeploy.errors import BadInput
from sepdeploy.jobs.answers import Job, one_line
from sepdeploy.threat import Attack

SLOWEST = 0.1  # seconds that one image may take in a search
MOST_ARRAY = 4 << 30  # bytes of a file of logits


def read_logits(job: Job, sizes: int, samples: int) -> npt.NDArray[np.float32]:
    """Return the logits (sizes, samples, …) that a job of mode "run" wrote.

    Raises:
        BadInput: They are not what was asked for.
    """
    with _written(job, f"float32 logits ({sizes}, {samples}, …)") as path:
        found: npt.NDArray[np.float32] = np.load(path, allow_pickle=False)
        if found.dtype != np.float32 or found.ndim < 2 or found.shape[:2] != (sizes, samples):
            raise ValueError(f"{found.dtype} {found.shape}")
    return found


def read_outputs(
    job: Job, names: Sequence[str]
) -> tuple[tuple[npt.NDArray[Any], ...], dict[str, npt.NDArray[Any]]]:
    """Return the inputs and the outputs by name that a job of mode "outputs" wrote.

    Raises:
        BadInput: They are not what was asked for.
    """
    with _written(job, "inputs and outputs") as path, np.load(path, allow_pickle=False) as said:
        count = sum(name.startswith("input") for name in said.files)
        inputs = tuple(said[f"input{i}"] for i in range(count))
        return inputs, {name: said[f"output{i}"] for i, name in enumerate(names)}


@contextmanager
def _written(job: Job, what: str) -> Iterator[Path]:
    """Give the file that a job wrote; whatever is wrong with it is a refusal in one line."""
    assert job.output is not None
    try:
        if job.output.stat().st_size > MOST_ARRAY:
            raise ValueError("too large")
        yield job.output
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise BadInput(
            f"{job.subject}: expected {what}: {one_line(error)}",
            hint="is the file what it should be?",
        ) from error


class Labelled(NamedTuple):
    """Images to attack: (N, ...) float32, their labels (N,) and ids (N,), which seed draws."""

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]


def search_job(
    path: Path,
    runtime: str,
    given: Labelled,
    attack: Attack,
    folder: Path,
    *,
    batch: int,
    threads: int | None = 1,
    name: str = "search",
) -> Job:
    """Return the job that attacks images by what a file answers.

    Args:
        path: The artifact.
        runtime: The runtime to use.
        given: What is attacked; the images are written into ``folder``.
        attack: One that needs logits alone (``threat.Row.on_file``).
        folder: Where inputs and what was found lie on this machine.
        batch: Images that are run at once.
        threads: Threads of the runtime.
        name: Keeps the files of several jobs in one folder apart.
    """
    source, target = folder / f"{name}-images.npy", folder / f"{name}.npz"
    np.save(source, np.ascontiguousarray(given.images, dtype=np.float32), allow_pickle=False)
    chosen = {key: getattr(attack, key) for key in ("norm", "eps", "restarts", "seed")}
    settings = {**chosen, "queries": attack.steps, "batch": batch}
    settings |= {"labels": given.labels.tolist(), "ids": given.ids.tolist()}
    patience = SLOWEST * len(given.images) * attack.steps * attack.restarts
    return Job("search", runtime, {"artifact": path}, settings, threads, source, target, patience)


def read_search(
    job: Job, images: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the images that a job of mode "search" found for ``images``, and their logits.

    Raises:
        BadInput: They are not what was asked for.
    """
    with (
        _written(job, f"{len(images)} images with their logits") as path,
        np.load(path, allow_pickle=False) as said,
    ):
        found, logits = said["images"], said["logits"]
        for array, shape in ((found, images.shape), (logits, (len(images), *logits.shape[1:]))):
            if array.dtype != np.float32 or array.shape != shape or array.ndim < 2:
                raise ValueError(f"{array.dtype} {array.shape}")
    return found, logits


def logits_job(
    path: Path,
    runtime: str,
    images: npt.NDArray[np.float32],
    folder: Path,
    *,
    batches: Sequence[int] = (32,),
    threads: int | None = 1,
    name: str = "logits",
) -> Job:
    """Return the job that runs images through a file.

    Args:
        path: The artifact.
        runtime: The runtime to use.
        images: float32 (N, *shape); written into ``folder``.
        folder: Where inputs and logits lie on this machine.
        batches: All N images are run once for each of these sizes.
        threads: Threads of the runtime.
        name: Keeps the files of several jobs in one folder apart.
    """
    source, target = folder / f"{name}-images.npy", folder / f"{name}.npy"
    np.save(source, np.ascontiguousarray(images, dtype=np.float32), allow_pickle=False)
    settings = {"batches": list(batches)}
    return Job("run", runtime, {"artifact": path}, settings, threads, source, target)
