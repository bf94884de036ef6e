"""EMULATED numbers of an artifact: the real ARM runtime on the device's core, never its clock."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sepdeploy import measure
from sepdeploy.devices.emulation import Emulator, Outcome, logits, measurements, runtime_for
from sepdeploy.measure.accuracy import accuracy
from sepdeploy.measure.proof.parity import compare
from sepdeploy.metrics import measured
from sepdeploy.records import Kind, Measurement
from sepdeploy.workflows.bench.judging import JudgingSet

Floats = NDArray[np.float32]


def emulate(
    emulator: Emulator, path: Path, judged: tuple[JudgingSet, ...]
) -> tuple[Measurement, ...]:
    """Return instruction counts, memory, agreement with the host, and accuracy on the ARM kernels.

    Args:
        emulator: Open, of the device's core.
        path: The artifact.
        judged: Images; without any, agreement and accuracy are left out.
    """
    found = list(measurements(emulator, path))
    if judged:
        clean = logits(emulator, path, judged[0].images)
        found.append(_agreement(path, judged[0].images, clean))
        found.append(_accuracy("clean_accuracy", path, judged[0], clean))
    for judging in judged:
        if judging.adversarial is not None:
            attacked = logits(emulator, path, judging.adversarial)
            found.append(_accuracy("adversarial_accuracy", path, judging, attacked))
    return tuple(found)


def _agreement(path: Path, images: Floats, arm: Outcome[Floats]) -> Measurement:
    """Compare the logits of the ARM kernels with those of this machine's."""
    if arm.value is None:
        return arm.absent("parity_max_rel")
    host, _ = measure.run_logits(path, runtime_for(path), images)
    error, agreement, _ = compare(arm.value, host[0])
    details = {"label_agreement": agreement, "against": "the host's kernels", **arm.facts}
    return measured("parity_max_rel", error, Kind.EMULATED, n=len(images), details=details)


def _accuracy(metric: str, path: Path, judging: JudgingSet, found: Outcome[Floats]) -> Measurement:
    if found.value is None:
        return found.absent(metric)
    is_clean = metric == "clean_accuracy"
    details = (judging.origin() if is_clean else judging.attacked_origin()) | found.facts
    return accuracy(
        metric, found.value, judging.images, judging.labels, Kind.EMULATED, details, where=path
    )
