"""Is an exported file the foreign ONNX file it was made from?

The file itself, run by ONNX Runtime in a child process, is the reference: nothing of what this
program made of its graph stands on that side of the comparison.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sepdeploy.errors import ArtifactCheckFailed, BadInput, Missing
from sepdeploy.exports.judged_images import find_data, reference_inputs
from sepdeploy.exports.proof import fault
from sepdeploy.exports.quantize.files import only_runtimes
from sepdeploy.records import ArtifactRecord, Parity

if TYPE_CHECKING:
    import onnx

RUNTIME = "onnxruntime"

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """Inputs, and what the foreign file itself answers."""

    images: Array
    outputs: Array
    batches: tuple[int, ...]
    kind: str = "synthetic"


def onnx_logits(path: Path, images: Array, batches: Sequence[int]) -> Array:
    """Outputs (N, …) of an ONNX file in ONNX Runtime, in a child process.

    Raises:
        BadInput: The runtime refuses the file or fails on it.
        Missing: ONNX Runtime is not installed.
    """
    from sepdeploy import measure, runtimes

    if RUNTIME not in runtimes.installed("onnx"):
        raise Missing(
            "a foreign .onnx file is judged by ONNX Runtime", hint="pip install onnxruntime"
        )
    found, _ = measure.run_logits(path, RUNTIME, images, batches=batches)
    outputs: Array = found[0]
    return outputs


def make_reference(
    path: Path,
    shape: tuple[int, ...],
    batches: tuple[int, ...],
    seed: int,
    images: Array | None = None,
) -> Reference:
    """Run the foreign file on images, else on uniform inputs in [0, 1] and normal ones, half each.

    Inputs outside the calibrated ranges say nothing about a file of static quantisation.

    Raises:
        BadInput: The inputs fit into no memory, or the outputs are not finite.
    """
    from sepdeploy.runtimes.runner import MOST_VALUES

    n = max(batches)
    if n * math.prod(shape) > MOST_VALUES:
        raise BadInput(
            f"{path}: an input of {[n, *shape]} fits into no memory",
            hint="export the model with an open batch, or a small one",
        )
    enough = images is not None and len(images) >= n
    images, kind = reference_inputs(shape, images if enough else None, n, seed)
    if kind == "synthetic":
        normal = np.random.default_rng([seed, 1])  # another stream than the uniform ones
        images[(n + 1) // 2 :] = normal.standard_normal((n // 2, *shape), dtype=np.float32)
    outputs = onnx_logits(path, images, batches[-1:])
    if not np.isfinite(outputs).all():
        raise BadInput(f"{path} gives values that are not finite", hint="is it fully trained?")
    return Reference(images, outputs, batches, kind)


def prove_foreign(
    path: Path, reference: Reference, mode: str, canonical: onnx.ModelProto | None = None
) -> tuple[tuple[Parity, ...], tuple[str, ...]]:
    """Compare an exported file with the foreign one, in every runtime that it is for.

    Args:
        path: The exported file.
        reference: What the foreign file answers.
        mode: Quantisation of the exported file.
        canonical: The graph that it was made from, by which a failure names the layer at fault.

    Raises:
        ArtifactCheckFailed: They differ, or a runtime refuses the file.
    """
    from sepdeploy import measure, runtimes
    from sepdeploy.measure.proof.fidelity import faulty_layer
    from sepdeploy.measure.proof.parity import TOLERANCE, certify

    only = only_runtimes(path)
    able = [r for r in runtimes.installed(path.suffix[1:]) if not only or r in only]
    if not able:
        return (), (f"{path.name}: not proven, no runtime for {path.suffix} is installed",)
    certificates = []
    wanted = reference.outputs.reshape(len(reference.outputs), -1)
    for runtime in able:
        try:
            found, facts = measure.run_logits(
                path, runtime, reference.images, batches=reference.batches
            )
        except BadInput as error:  # a file of ours that a runtime refuses is a failed export
            raise ArtifactCheckFailed(error.message, hint=error.hint) from error
        for batch, outputs in zip(reference.batches, found, strict=True):
            certificate = certify(
                outputs.reshape(len(outputs), -1),
                wanted,
                Parity(runtime, str(facts["version"]), batch, 0.0, 0.0, TOLERANCE, reference.kind),
                quantization=mode,
            )
            if not certificate.passed:
                if canonical is not None and certificate.criterion == "max_rel":
                    images = reference.images[: max(reference.batches)]
                    worst = faulty_layer(path, runtime, images, canonical, certificate.tolerance)
                    certificate = replace(certificate, worst_layer=worst)
                raise ArtifactCheckFailed(
                    f"{path.name} in {runtime}, batch {batch}: {_miss(certificate)}",
                    hint="nothing was written; report this file, it must export correctly"
                    if mode in ("none", "fp16")
                    else "nothing was written; try --quantize dynamic, or more images",
                )
            certificates.append(certificate)
    return tuple(certificates), ()


def _miss(certificate: Parity) -> str:
    if certificate.criterion == "max_rel":
        return (
            f"{certificate.max_rel:.2e} away from the .onnx file, more than "
            f"{certificate.tolerance:.0e}{fault(certificate)}"
        )
    return (
        f"another function than the .onnx file: relative distance {certificate.rel_l2:.2f} (at "
        f"most {certificate.tolerance}), cosine {certificate.cosine:.2f}"
    )


def verify_foreign(
    path: Path, artifact: Path, record: ArtifactRecord, batches: Sequence[int], seed: int
) -> str:
    """Compare an exported file with the foreign .onnx file it was made from, once more.

    Args:
        path: The .onnx file.
        artifact: The exported file.
        record: What the manifest says about it.
        batches: Batch sizes.
        seed: Seed of the synthetic inputs.

    Returns:
        What was found, one line.

    Raises:
        ArtifactCheckFailed: They differ.
        BadInput: A file cannot be used.
        Missing: A runtime is not installed, or the data of a calibrated file not at hand.
    """
    from sepdeploy.exporters.entry import read_entry

    shape, images = read_entry(artifact).input.shape, None
    if record.calibration:
        name = str(record.calibration.get("data"))
        found = find_data(
            {"data": name}, data=None, data_dir=None, shape=shape, notify=lambda _: None
        )
        if found is None:
            raise Missing(f"data set '{name}', which the file was calibrated with, is not at hand")
        images = found.test.take(max(batches), seed).batch(slice(None))
    reference = make_reference(path, shape, tuple(batches), seed, images)
    parity, notes = prove_foreign(artifact, reference, record.quantization)
    if notes:
        raise Missing(notes[0])
    worst = max(p.max_rel for p in parity)
    runtimes = ", ".join(dict.fromkeys(p.runtime for p in parity))
    return f"{worst:.1e} against {path.name} in {RUNTIME} ({runtimes})"
