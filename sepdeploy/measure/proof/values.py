"""The activations of an artifact, by the names that its file gives them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sepdeploy.measure.child import run_job, scratch
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
        np.save(folder / "inputs.npy", images, allow_pickle=False)
        job = {
            "mode": "values",
            "runtime": runtime,
            "model": str(shown.path),
            "inputs": str(folder / "inputs.npy"),
            "names": names,
            "output": str(folder / "values.npz"),
        }
        found = run_job(job)["found"]
        with np.load(folder / "values.npz", allow_pickle=False) as arrays:
            return {name: arrays[f"value{names.index(name)}"] for name in found}
