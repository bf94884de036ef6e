"""The activations of an artifact, by the names that its file gives them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sepdeploy.files import scratch
from sepdeploy.jobs import Job
from sepdeploy.measure.child import run_job
from sepdeploy.measure.proof.looks import look

Array = npt.NDArray[np.float32]


def runtime_values(
    path: str | os.PathLike[str], runtime: str, images: Array, names: list[str]
) -> dict[str, Array]:
    """Return values of an artifact by name, as far as its file names them.

    Raises:
        BadInput: The file is not usable.
        Missing: The runtime is not installed.
    """
    with scratch() as folder:
        shown = look(path).show(Path(path), names, folder)
        source, target = folder / "inputs.npy", folder / "values.npz"
        np.save(source, images, allow_pickle=False)
        files = {"artifact": shown.path}
        job = Job("values", runtime, files, {"names": names}, inputs=source, output=target)
        found = run_job(job).found
        with np.load(target, allow_pickle=False) as arrays:
            return {name: arrays[f"value{names.index(name)}"] for name in found}
