"""Is a written file the source that it was made from?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sepdeploy.errors import ArtifactCheckFailed, BadInput, NoRoom
from sepdeploy.exporters.formats import format_of
from sepdeploy.exporters.modes import MODES
from sepdeploy.exports.named import NamedReference, proven
from sepdeploy.exports.source import Reference
from sepdeploy.records import LayerPrecision, LayerRecord, Parity, Residency

if TYPE_CHECKING:
    import onnx

# Function bodies are also run by onnx's own evaluator, as far as that is bearable.
CONSTANT = "gives the same output for every input that was tried"
EVALUATOR_MACS, EVALUATOR_SAMPLES = 20_000_000, 3


@dataclass(frozen=True)
class Proof:
    """What was found right: certificates, residency per structured layer, and what could not be."""

    parity: tuple[Parity, ...] = ()
    residency: tuple[Residency, ...] = ()
    notes: tuple[str, ...] = ()


def able_runtimes(path: Path) -> tuple[str, ...]:
    """Return the installed runtimes that a file is for."""
    from sepdeploy import runtimes

    row = format_of(path)
    only = row.runtimes(path)
    return tuple(r for r in runtimes.installed(row.name) if not only or r in only)


def prove(
    path: Path,
    reference: Reference | NamedReference,
    layers: tuple[LayerRecord, ...],
    *,
    quantization: str = "none",
    precisions: Sequence[LayerPrecision] = (),
    canonical: onnx.ModelProto | None = None,
) -> Proof:
    """Check one file: parity in every installed runtime, then what stays resident.

    Where the file is not what the reference says, another witness is asked, if there is one.

    Args:
        path: The file.
        reference: Inputs, and what its source says to them.
        layers: The layer table.
        quantization: Of the file; decides how parity is judged.
        precisions: Of its layers.
        canonical: The graph that it was made from, by which a failure names the layer at fault.

    Raises:
        ArtifactCheckFailed: A check failed, or a runtime refuses the file.
    """
    if isinstance(reference, NamedReference):
        return _proven_by_name(path, reference, layers)
    ask = partial(_proven_by, path, layers=layers, quantization=quantization, precisions=precisions)
    try:
        return ask(reference, canonical=canonical)
    except ArtifactCheckFailed as failed:
        other = reference.otherwise()
        if other is None:
            raise
        try:
            proof = ask(other, canonical=None)
        except ArtifactCheckFailed:
            raise failed from None
        note = f"{path.name} is what {other.said_by} says; {reference.said_by} says otherwise"
        return replace(proof, notes=(*proof.notes, note))


def _no_runtime(path: Path) -> Proof:
    return Proof(notes=(f"{path.name}: not proven, no runtime for {path.suffix} is installed",))


def _proven_by_name(
    path: Path, reference: NamedReference, layers: tuple[LayerRecord, ...]
) -> Proof:
    able = able_runtimes(path)
    if not able:
        return _no_runtime(path)
    parity, notes = proven(path, reference, able)
    residency = _residency(path, layers)
    _refuse_dense(path, residency)
    return Proof(parity, residency, notes)


def _proven_by(
    path: Path,
    reference: Reference,
    *,
    layers: tuple[LayerRecord, ...],
    quantization: str,
    precisions: Sequence[LayerPrecision],
    canonical: onnx.ModelProto | None,
) -> Proof:
    from sepdeploy import measure

    able = able_runtimes(path)
    if not able:
        return _no_runtime(path)
    # Nothing but what int8 was calibrated for can be asked of it.
    asked = slice(reference.ordinary if MODES[quantization].integer else None)
    images, outputs = reference.inputs[asked], reference.outputs[asked]
    tolerance = np.broadcast_to(reference.tolerance, len(reference.inputs))[asked]
    try:
        parity = measure.check_parity(
            path,
            images,
            outputs,
            runtimes=able,
            batches=reference.batches,
            tolerance=tolerance,
            inputs=reference.kind,
            canonical=canonical,
            quantization=quantization,
        )
        if reference.others:
            parity += _others_of(path, reference, parity, quantization)
        if sum(layer.macs for layer in layers) <= EVALUATOR_MACS and measure.has_bodies(path):
            few = slice(EVALUATOR_SAMPLES)
            parity += measure.check_evaluator(
                path, images[few], outputs[few], inputs=reference.kind, tolerance=tolerance[few]
            )
        residency = _residency(path, layers, precisions)
    except NoRoom:
        raise
    except BadInput as error:  # a file of ours that a runtime refuses is a failed export
        raise ArtifactCheckFailed(error.message, hint=error.hint) from error
    for certificate in parity:
        if not certificate.passed:
            raise ArtifactCheckFailed(
                f"{path.name} in {certificate.runtime} {certificate.version}, batch "
                f"{certificate.batch}{_at(certificate)}: {_miss(certificate, reference.said_by)}",
                hint=f"nothing was written; {MODES[quantization].hint}",
            )
    _refuse_dense(path, residency)
    notes = reference.notes
    if not measure.moves(outputs):
        notes = (*notes, f"{path.name}: not proven, {reference.said_by} {CONSTANT}")
    return Proof(parity, residency, notes)


def _residency(
    path: Path, layers: Sequence[LayerRecord], precisions: Sequence[LayerPrecision] = ()
) -> tuple[Residency, ...]:
    """Return what stays resident, nothing where no layer has factors to multiply together."""
    from sepdeploy import measure

    factored = any(x.structure != "dense" or x.part_of is not None for x in layers)
    return measure.check_residency(path, layers, precisions) if factored else ()


def _refuse_dense(path: Path, residency: Sequence[Residency]) -> None:
    for layer in residency:
        if not layer.passed:
            raise ArtifactCheckFailed(
                f"{path.name}: layer '{layer.layer}' keeps {layer.resident_bytes} bytes of "
                f"constants in the runtime, its factors are {layer.factor_bytes}: the runtime "
                "multiplied the factors back together",
                hint=f"nothing was written; {MODES['none'].hint}",
            )


def _others_of(
    path: Path, reference: Reference, main: tuple[Parity, ...], quantization: str
) -> tuple[Parity, ...]:
    """Return certificates of the outputs beside the main one, in every runtime."""
    from sepdeploy import measure

    few = reference.inputs[: max(reference.batches)]
    tolerance = float(np.max(reference.tolerance))
    bares = {p.runtime: p for p in main}
    return tuple(
        certificate
        for bare in bares.values()
        for certificate in measure.check_outputs(
            path, few, reference.others, bare, tolerance=tolerance, quantization=quantization
        )
    )


def _at(certificate: Parity) -> str:
    return f", output '{certificate.output}' (--output chooses)" if certificate.output else ""


def _miss(certificate: Parity, wanted: str) -> str:
    """Return how a certificate misses its bound, and where that begins."""
    if certificate.criterion == "max_rel":
        worst = certificate.worst_layer
        return (
            f"{certificate.max_rel:.2e} away from {wanted}, more than {certificate.tolerance:.0e}"
            + (f", first in layer '{worst}'" if worst else "")
        )
    return (
        f"another function than {wanted}: relative distance {certificate.rel_l2:.2f} "
        f"(at most {certificate.tolerance}), cosine {certificate.cosine:.2f}, "
        f"{certificate.label_agreement:.0%} of labels agree"
    )
