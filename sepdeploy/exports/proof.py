"""Is a written file the model it was made from?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sepdeploy.errors import ArtifactCheckFailed, BadInput
from sepdeploy.records import LayerPrecision, LayerRecord, Parity, Residency

if TYPE_CHECKING:
    import onnx

PARITY_SAMPLES = 32
# Function bodies are also run by onnx's own evaluator, as far as that is bearable.
EVALUATOR_MACS, EVALUATOR_SAMPLES = 20_000_000, 3


def prove(
    path: Path,
    format_name: str,
    layers: tuple[LayerRecord, ...],
    images: NDArray[np.float32],
    logits: NDArray[np.float32],
    kind: str,
    *,
    quantization: str = "none",
    precisions: Sequence[LayerPrecision] = (),
    only: Sequence[str] = (),
    batches: Sequence[int] = (),
    canonical: onnx.ModelProto | None = None,
) -> tuple[tuple[Parity, ...], tuple[Residency, ...], tuple[str, ...]]:
    """Check one artifact: parity in every installed runtime, then what stays resident.

    Args:
        path: The artifact.
        format_name: "onnx" or "tflite".
        layers: The layer table.
        images: Inputs (N, *shape), not all zero.
        logits: What the model says to them.
        kind: "data" or "synthetic".
        quantization: Of the file; decides how parity is judged.
        precisions: Of its layers.
        only: The runtimes that the file is for, where that is not all.
        batches: Batch sizes, by default those for a small network.
        canonical: The graph that it was made from, by which a failure names the layer at fault.

    Returns:
        Certificates, residency per structured layer, and notes on what could not be checked.

    Raises:
        ArtifactCheckFailed: A check failed, or no runtime accepts the file.
    """
    from sepdeploy import measure, runtimes
    from sepdeploy.measure.proof.parity import BATCHES

    able = [r for r in runtimes.installed(format_name) if not only or r in only]
    if not able:
        return (), (), (f"{path.name}: not proven, no runtime for .{format_name} is installed",)
    try:
        parity = measure.check_parity(
            path,
            images,
            logits,
            runtimes=able,
            batches=batches or BATCHES,
            inputs=kind,
            canonical=canonical,
            quantization=quantization,
        )
        if sum(layer.macs for layer in layers) <= EVALUATOR_MACS and measure.has_custom_nodes(path):
            few = slice(EVALUATOR_SAMPLES)
            parity += measure.check_evaluator(path, images[few], logits[few], inputs=kind)
        residency = measure.check_residency(path, layers, precisions)
    except BadInput as error:  # a file of ours that a runtime refuses is a failed export
        raise ArtifactCheckFailed(error.message, hint=error.hint) from error
    for certificate in parity:
        if not certificate.passed:
            raise ArtifactCheckFailed(
                f"{path.name} in {certificate.runtime} {certificate.version}, batch "
                f"{certificate.batch}: {_miss(certificate)}",
                hint="nothing was written; report this model, it must export correctly"
                if certificate.criterion == "max_rel"
                else "nothing was written; try --quantize dynamic, or more --calibration-samples",
            )
    for layer in residency:
        if not layer.passed:
            raise ArtifactCheckFailed(
                f"{path.name}: layer '{layer.layer}' keeps {layer.resident_bytes} bytes of "
                f"constants in the runtime, its factors are {layer.factor_bytes}: the runtime "
                "multiplied the factors back together",
                hint="nothing was written; report this model, it must export correctly",
            )
    return parity, residency, ()


def _miss(certificate: Parity) -> str:
    """Return how a certificate misses its bound."""
    if certificate.criterion == "max_rel":
        return (
            f"parity {certificate.max_rel:.2e} exceeds {certificate.tolerance:.0e}"
            f"{fault(certificate)}"
        )
    return (
        f"the quantised logits are another function: relative distance {certificate.rel_l2:.2f} "
        f"(at most {certificate.tolerance}), cosine {certificate.cosine:.2f}, "
        f"{certificate.label_agreement:.0%} of labels agree"
    )


def fault(certificate: Parity) -> str:
    """Return where a certificate says that an error begins, as the end of a message."""
    worst = certificate.worst_layer
    return f", first in layer '{worst}'" if worst else ""
