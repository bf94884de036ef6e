"""Ranges of an artifact's activations over calibration images, seen in its runtime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sepdeploy.errors import DATA, REPORT, BadInput
from sepdeploy.files import scratch
from sepdeploy.jobs import Job
from sepdeploy.measure.child import run_job
from sepdeploy.measure.proof.looks import look

BATCH = 16  # images at a time: activations of all of them are in memory together


def collect_ranges(
    path: str | os.PathLike[str],
    runtime: str,
    images: npt.NDArray[np.float32],
    names: Sequence[str],
) -> dict[str, tuple[float, float]]:
    """Return the smallest and largest value of activations over all images.

    The extremes themselves, not percentiles: a clipped activation is a silent error, and a range
    that is too wide costs at most half its last step.

    Args:
        path: A float artifact, which has to name the activations.
        runtime: A name of ``runtimes.RUNTIMES``.
        images: float32 (N, *shape) in [0, 1]: training images, never those that judge.
        names: Activations, the graph's own input among them or not.

    Raises:
        BadInput: The file is not usable or lacks one of the names; no images.
        Missing: The runtime is not installed.
    """
    if not len(images):
        raise BadInput(f"{path}: no images to calibrate with", hint=DATA)
    if not names:
        return {}
    with scratch() as folder:
        shown = look(path).show(Path(path), names, folder)
        source = folder / "inputs.npy"
        np.save(source, np.asarray(images, dtype=np.float32), allow_pickle=False)
        settings = {"names": list(names), "batch": BATCH}
        job = Job("ranges", runtime, {"artifact": shown.path}, settings, inputs=source)
        found = dict(run_job(job).ranges)
    if shown.given in names:
        found[shown.given] = float(images.min()), float(images.max())
    if lacking := [name for name in names if name not in found]:
        raise BadInput(f"{path}: has no activation '{lacking[0]}' to calibrate", hint=REPORT)
    return found
