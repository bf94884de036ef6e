"""Logits of the ARM runtimes, for comparison with this machine's."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from sepdeploy.devices.emulation import Emulator, runtime_for
from sepdeploy.jobs import logits_job, read_logits

Floats = np.ndarray[Any, np.dtype[np.float32]]


def logits(emulator: Emulator, path: Path, inputs: Floats, *, batch: int = 32) -> Floats:
    """Return the float32 logits (N, classes) of an artifact on the emulated core."""
    with TemporaryDirectory() as folder:
        sizes = [max(1, min(batch, len(inputs)))]
        job = logits_job(path, runtime_for(path), inputs, Path(folder), batches=sizes)
        emulator.run_job(job)
        found: Floats = read_logits(job, 1, len(inputs))[0]
        return found
