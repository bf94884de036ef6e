"""Parity: does the artifact, in its runtime, give the logits of the model it was made from?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from sepdeploy.errors import ARRAYS, BadInput
from sepdeploy.exporters.modes import MODES, TOLERANCE
from sepdeploy.measure.child import every_runtime, run_logits
from sepdeploy.measure.proof.fidelity import faulty_layer
from sepdeploy.measure.proof.int8_parity import MOST_DISTANCE, distance
from sepdeploy.measure.proof.ways import REFERENCE_EVALUATOR, ways
from sepdeploy.records import Parity

BATCHES = (1, 3, 32)
LARGE_MACS = 10**9  # of one sample; above, batches of 32 would take minutes
LEAST_COSINE = 0.9  # of logits centred over the batch: below it the output is another function

Array = npt.NDArray[np.float32]


def batches_for(macs: int) -> tuple[int, ...]:
    """Return the batch sizes that a network of so many multiply-accumulates is proven with."""
    return BATCHES if macs <= LARGE_MACS else BATCHES[:-1]


def check_parity(
    path: str | os.PathLike[str],
    images: Array,
    reference: Array,
    *,
    runtimes: Sequence[str] | None = None,
    batches: Sequence[int] = BATCHES,
    tolerance: float = TOLERANCE,
    inputs: str = "data",
    canonical: ModelProto | None = None,
    quantization: str = "none",
) -> tuple[Parity, ...]:
    """Compare an artifact with reference logits, in every runtime and for every batch size.

    All images are run for each batch size, so a size that does not divide their number is also a
    test of changing sizes. A runtime that answers with a constant or unrelated output fails even
    where a loose tolerance would let it pass. Where a file's custom nodes can run in several ways,
    each one gets its own certificates.

    Args:
        path: The artifact.
        images: (N, *shape) in [0, 1], float32; not all zero.
        reference: (N, …) outputs of the model it was made from.
        runtimes: Names; by default every installed one for the format.
        batches: Batch sizes.
        tolerance: Largest max|Δlogit| / max|reference logit| that passes.
        inputs: "data" or "synthetic", written into the certificate.
        canonical: The canonical graph with its weights: where parity of a float file fails, the
            layer at fault is looked for and named.
        quantization: Of the file, a name of ``MODES``: it decides how the file is judged.

    Returns:
        One certificate per runtime (and way to run custom nodes there) and batch size.

    Raises:
        BadInput: The file is not usable, or shapes do not fit.
        Missing: A runtime is not installed.
    """
    reference = np.asarray(reference, dtype=np.float32)
    if reference.ndim < 2 or len(reference) != len(images) or not np.isfinite(reference).all():
        raise BadInput(
            f"{path}: reference logits must be finite ({len(images)}, classes), "
            f"found {reference.shape}",
            hint=ARRAYS,
        )
    if not len(images) or not np.any(images):
        raise BadInput(f"{path}: parity needs images that are not all zero", hint=ARRAYS)
    reference = reference.reshape(len(reference), -1)
    certificates = []
    for way in (way for name in every_runtime(path, runtimes) for way in ways(path, name)):
        runtime = way.runtime
        found, answer = run_logits(path, runtime, images, batches=batches, native=way.native)
        if way.native and not answer.native_calls:
            raise BadInput(
                f"{path}: its custom nodes did not run in the kernels of {way.name}",
                hint="sepdeploy devices setup host builds the kernels anew",
            )
        found = found.reshape(*found.shape[:2], -1)
        if found.shape[1:] != reference.shape:
            raise BadInput(
                f"{path}: gives logits {found.shape[1:]} in {runtime}, expected {reference.shape}",
                hint=ARRAYS,
            )
        worst: str | None = None
        for batch, logits in zip(batches, found, strict=True):
            certificate = certify(
                logits,
                reference,
                Parity(way.name, answer.version, int(batch), 0.0, 0.0, tolerance, inputs),
                quantization=quantization,
            )
            if not (certificate.passed or MODES[quantization].integer) and canonical is not None:
                if worst is None:
                    bound = certificate.tolerance
                    worst = faulty_layer(path, runtime, images, canonical, bound)
                certificate = replace(certificate, worst_layer=worst)
            certificates.append(certificate)
    return tuple(certificates)


def check_evaluator(
    path: str | os.PathLike[str],
    images: Array,
    reference: Array,
    *,
    inputs: str = "data",
) -> tuple[Parity, ...]:
    """Compare an .onnx file in onnx's own slow evaluator with reference logits.

    Args:
        path: The artifact.
        images: (N, *shape), few of them.
        reference: (N, classes).
        inputs: As in ``check_parity``.

    Raises:
        BadInput: The file is not usable there.
    """
    batches = tuple(dict.fromkeys((1, len(images))))
    found, answer = run_logits(path, REFERENCE_EVALUATOR, images, batches=batches, native={})
    certificates = []
    for batch, logits in zip(batches, found, strict=True):
        error, agreement, same = compare(logits, reference)
        passed = error <= TOLERANCE and same
        version = answer.version
        certificates.append(
            Parity(
                REFERENCE_EVALUATOR, version, batch, error, agreement, TOLERANCE, inputs, "", passed
            )
        )
    return tuple(certificates)


def certify(logits: Array, reference: Array, certificate: Parity, *, quantization: str) -> Parity:
    """Return a certificate with what was found, judged as the quantisation of the file asks.

    Args:
        logits: (N, classes) of the file.
        reference: (N, classes) of the model.
        certificate: Where, in which batches and on what they were computed, and the tolerance
            of a float file.
        quantization: Of the file.
    """
    error, agreement, same = compare(logits, reference)
    mode = MODES[quantization]
    tolerance = certificate.tolerance
    if mode.quantized:
        tolerance = max(tolerance, mode.tolerance)
    judged = replace(
        certificate,
        max_rel=error,
        label_agreement=agreement,
        tolerance=tolerance,
        passed=same and error <= tolerance,
    )
    return _as_int8(judged, logits, reference) if mode.integer else judged


def _as_int8(certificate: Parity, logits: Array, reference: Array) -> Parity:
    """Return a certificate judged by the bounds of quantised files."""
    found = distance(logits, reference)
    return replace(
        certificate,
        tolerance=MOST_DISTANCE,
        criterion="rel_l2",
        rel_l2=found.rel_l2,
        cosine=found.cosine,
        passed=found.passed,
        worst_layer="",
    )


def compare(logits: Array, reference: Array) -> tuple[float, float, bool]:
    """Compare logits (N, classes) with reference logits.

    Returns:
        max|Δ| / max|reference|; the fraction of equal labels; whether the output follows the
        reference at all (not constant over a batch where the reference varies, cosine of the
        centred logits at least ``LEAST_COSINE``).
    """
    a, b = logits.astype(np.float64), reference.astype(np.float64)
    scale = float(np.abs(b).max())
    if not np.isfinite(a).all():
        return float("inf"), 0.0, False
    error = float(np.abs(a - b).max()) / (scale or 1.0)
    agreement = float(np.mean(a.argmax(axis=1) == b.argmax(axis=1)))
    return error, agreement, _follows(a, b)


def _follows(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> bool:
    if len(a) > 1:
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    norms = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    scale = float(np.abs(b).max())
    if norms[1] <= 1e-6 * max(1.0, scale) * np.sqrt(b.size):  # the reference itself is constant
        return True
    return norms[0] > 0 and float(np.vdot(a, b)) / (norms[0] * norms[1]) >= LEAST_COSINE
