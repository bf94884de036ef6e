"""Parity: does the artifact, in its runtime, give the logits of the model it was made from?"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from sepdeploy.errors import ARRAYS, BadInput
from sepdeploy.exporters.modes import MODES, TOLERANCE
from sepdeploy.measure.child import every_runtime, run_logits, run_outputs
from sepdeploy.measure.proof.fidelity import faulty_layer
from sepdeploy.measure.proof.int8_parity import MOST_DISTANCE, distance
from sepdeploy.measure.proof.ways import REFERENCE_EVALUATOR, ways
from sepdeploy.records import Parity

BATCHES = (1, 3, 32)
LARGE_MACS = 10**9  # of one sample; above, batches of 32 would take minutes
FLOOR = 2.0**-22  # of a difference: two units in the last place of 1
LOOSE = 0.1  # no tolerance above proves anything
SMALLEST = 2.0**-126  # of what is not zero: less is flushed to it
LEAST_COSINE = 0.9  # of logits centred over the batch: below it the output is another function

Array = npt.NDArray[np.float32]
Tolerance = float | npt.NDArray[np.float64]


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
    tolerance: Tolerance = TOLERANCE,
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
        tolerance: Largest max|Δlogit| / max|reference logit| that passes, of each sample or of all.
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
                Parity(way.name, answer.version, int(batch), 0.0, 0.0, 0.0, inputs),
                tolerance=tolerance,
                quantization=quantization,
            )
            if not (certificate.passed or MODES[quantization].integer) and canonical is not None:
                if worst is None:
                    bound = certificate.tolerance
                    few = images[: max(batches)]  # what a file of fixed batch takes at once
                    worst = faulty_layer(path, runtime, few, canonical, bound)
                certificate = replace(certificate, worst_layer=worst)
            certificates.append(certificate)
    return tuple(certificates)


def check_outputs(
    path: str | os.PathLike[str],
    images: Array,
    others: Mapping[str, npt.NDArray[Any]],
    bare: Parity,
    *,
    tolerance: float = TOLERANCE,
    quantization: str = "none",
) -> tuple[Parity, ...]:
    """Compare the outputs beside the main one with what the model says, each by its name.

    Args:
        path: The artifact.
        images: (N, *shape), run at once.
        others: What the model says to them.
        bare: A certificate of the main output, for runtime, version and kind of inputs.
        tolerance: As in ``check_parity``, relative to the largest value of each output.
        quantization: Of the file.

    Raises:
        BadInput: The file is not usable, or lacks an output.
    """
    _, found = run_outputs(path, bare.runtime, (images,))
    certificates = []
    for name, wanted in others.items():
        if name not in found or found[name].shape != wanted.shape:
            told = found[name].shape if name in found else "none"
            raise BadInput(
                f"{path}: output '{name}' is {told} in {bare.runtime}, expected {wanted.shape}",
                hint=ARRAYS,
            )
        rows = len(images) if wanted.shape[:1] == (len(images),) else 1  # it may have no batch
        mine, theirs = (a.reshape(rows, -1).astype(np.float32) for a in (found[name], wanted))
        own = Parity(bare.runtime, bare.version, len(images), 0.0, 0.0, 0.0, bare.inputs)
        own = certify(mine, theirs, own, tolerance=tolerance, quantization=quantization)
        certificates.append(replace(own, output=name))
    return tuple(certificates)


def check_evaluator(
    path: str | os.PathLike[str],
    images: Array,
    reference: Array,
    *,
    inputs: str = "data",
    tolerance: Tolerance = TOLERANCE,
) -> tuple[Parity, ...]:
    """Compare an .onnx file in onnx's own slow evaluator with reference logits.

    Args:
        path: The artifact.
        images: (N, *shape), few of them.
        reference: (N, classes).
        inputs: As in ``check_parity``.
        tolerance: As in ``check_parity``.

    Raises:
        BadInput: The file is not usable there.
    """
    batches = tuple(dict.fromkeys((1, len(images))))
    found, answer = run_logits(path, REFERENCE_EVALUATOR, images, batches=batches, native={})
    return tuple(
        certify(
            logits,
            reference,
            Parity(REFERENCE_EVALUATOR, answer.version, batch, 0.0, 0.0, 0.0, inputs),
            tolerance=tolerance,
            quantization="none",
        )
        for batch, logits in zip(batches, found, strict=True)
    )


def certify(
    logits: Array,
    reference: Array,
    certificate: Parity,
    *,
    tolerance: Tolerance = TOLERANCE,
    quantization: str,
) -> Parity:
    """Return a certificate with what was found, judged as the quantisation of the file asks.

    Args:
        logits: (N, classes) of the file.
        reference: (N, classes) of the model.
        certificate: Where, in which batches and on what they were computed.
        tolerance: Of a float file, for each sample or for all.
        quantization: Of the file.
    """
    error, agreement, same = compare(logits, reference)
    # Differences that are within the rounding of numbers near 1 are none: a sigmoid that is near 0
    # everywhere has no more digits in some runtimes. Where even that says nothing, digits count.
    least = FLOOR / _scale(reference)
    least = max(MODES[quantization].tolerance, least if least <= LOOSE else 0.0)
    errors = _errors(logits, reference)
    allowed = np.broadcast_to(np.maximum(tolerance, least), errors.shape)
    passed = bool((errors <= allowed).all())
    worst = int(np.argmax(errors if passed else errors / allowed))  # the sample that decides
    judged = replace(
        certificate,
        max_rel=error if passed else float(errors[worst]),
        label_agreement=agreement,
        tolerance=float(np.max(allowed)) if passed else float(allowed[worst]),
        passed=same and passed,
        proven=moves(reference) and float(np.max(allowed)) <= LOOSE,
    )
    return _as_int8(judged, logits, reference) if MODES[quantization].integer else judged


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
    if not np.isfinite(a).all():
        return float("inf"), 0.0, False
    error = float(_errors(logits, reference).max())
    agreement = float(np.mean(a.argmax(axis=1) == b.argmax(axis=1)))
    return error, agreement, _follows(a, b)


def _errors(logits: Array, reference: Array) -> npt.NDArray[np.float64]:
    """max|Δ| / max|reference| of each sample; infinite where something is not finite."""
    delta = np.abs(logits.astype(np.float64) - reference.astype(np.float64))
    worst = np.where(np.isfinite(delta), delta, np.inf).reshape(len(delta), -1).max(axis=1)
    return np.asarray(worst / _scale(reference))


def _scale(reference: npt.NDArray[Any]) -> float:
    """The largest of the reference, 1 where all is zero."""
    largest = float(np.abs(reference).max(initial=0.0))
    return largest if largest > SMALLEST else 1.0


def moves(outputs: Array) -> bool:
    """Whether outputs (N, …) differ from sample to sample: else they prove nothing."""
    scale = float(np.abs(outputs).max(initial=0.0))
    return scale > SMALLEST and float(np.ptp(outputs, axis=0).max()) > 1e-6 * scale


def _follows(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> bool:
    scale = float(np.abs(b).max())
    if len(a) > 1:
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    norms = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if norms[1] <= max(SMALLEST, 1e-6 * scale) * np.sqrt(b.size):  # the reference is constant
        return True
    return norms[0] > 0 and float(np.vdot(a, b)) / (norms[0] * norms[1]) >= LEAST_COSINE
