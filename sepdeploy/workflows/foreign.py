"""Somebody else's ONNX file → a .tflite file that is proven equal to it.

The file itself, run by ONNX Runtime in a child process, is the reference: nothing of what this
program made of its graph stands on that side of the comparison. torch is not needed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sepdeploy import __version__
from sepdeploy.errors import ArtifactCheckFailed, BadInput, Missing
from sepdeploy.files import sha256_file, write_text
from sepdeploy.records import (
    ArtifactRecord,
    FileRef,
    InputSpec,
    LayerRecord,
    Manifest,
    Parity,
    dump,
)
from sepdeploy.workflows.evaluation import Notify
from sepdeploy.workflows.exporting import ExportOptions, read_manifest
from sepdeploy.workflows.staging import move_all, staging

if TYPE_CHECKING:
    import onnx

RUNTIME = "onnxruntime"
ONLY = "a foreign .onnx file is exported to .tflite: -f tflite"

Array = NDArray[np.float32]


@dataclass(frozen=True)
class ForeignModel:
    """A foreign file as this program understands it.

    Attributes:
        path: The file.
        graph: Its canonical graph, weights included.
        input: Shape of one sample; values are passed on as they are, without normalisation.
        layers: One record per node that carries weights.
        batch: The batch size that it insists on, None for any.
    """

    path: Path
    graph: onnx.ModelProto
    input: InputSpec
    layers: tuple[LayerRecord, ...]
    batch: int | None


def is_foreign(path: Path) -> bool:
    """Whether a file that is to be exported is an ONNX file rather than a model file."""
    return path.suffix == ".onnx"


def read_foreign(path: Path, notify: Notify) -> ForeignModel:
    """Read a foreign ONNX file.

    Raises:
        BadInput: Damaged, more than one input, open sizes, or operators of another domain.
    """
    from sepdeploy.exporters.graph_layers import graph_layers
    from sepdeploy.exporters.normalize import fixed_batch, input_shape, normalize
    from sepdeploy.exporters.onnx_source import read_onnx

    light, weights = read_onnx(path)
    graph = normalize(light, weights, where=str(path), notify=notify)
    spec = InputSpec(input_shape(graph, str(path)))
    return ForeignModel(path, graph, spec, graph_layers(graph), fixed_batch(graph))


def export_foreign(
    path: Path,
    out_dir: Path,
    *,
    options: ExportOptions,
    seed: int,
    notify: Notify,
) -> Manifest:
    """Write ``STEM.tflite`` and ``STEM.manifest.json`` from a foreign ONNX file.

    Args:
        path: The .onnx file; the exported files take its stem.
        out_dir: Their folder.
        options: Of the export; the format "onnx" beside "tflite" is passed over.
        seed: Seed of the synthetic inputs.
        notify: Told what goes on.

    Raises:
        ArtifactCheckFailed: The .tflite file differs from the .onnx file; nothing was written.
        BadInput: The file cannot be read or has something that TFLite has no form for.
        Missing: ONNX Runtime is not installed.
    """
    from sepdeploy.exporters.graph_layers import graph_macs
    from sepdeploy.measure.parity import batches_for

    if "tflite" not in options.formats:
        raise BadInput(f"{path} is an ONNX file already", hint=ONLY)
    if options.flavour == "custom":
        raise BadInput(
            f"{path}: the custom flavour is for models with structured layers of their own",
            hint="drop --flavour custom",
        )
    if options.quantize != "none":
        raise BadInput(
            f"--quantize {options.quantize} needs a model of sepdeploy, {path} is foreign",
            hint="leave --quantize out",
        )
    stem = path.stem
    _refuse_clash(path, out_dir / f"{stem}.manifest.json")
    foreign = read_foreign(path, notify)
    batches = batches_for(graph_macs(foreign.graph)) if foreign.batch is None else (foreign.batch,)
    reference = _reference(path, foreign.input.shape, batches, seed)
    with staging(out_dir, stem) as folder:
        artifact = _write(foreign, folder / f"{stem}.tflite", options.tflite_target, reference)
        manifest = Manifest(
            stem=stem,
            model=FileRef(os.path.relpath(path.resolve(), out_dir.resolve()), sha256_file(path)),
            input=foreign.input,
            layers=foreign.layers,
            artifacts=(artifact,),
            provenance={"source": "onnx"},
            tool={"name": "sepdeploy", "version": __version__},
        )
        write_text(folder / f"{stem}.manifest.json", dump(manifest))
        move_all(folder, out_dir, last=f"{stem}.manifest.json")
    return manifest


def _refuse_clash(path: Path, manifest_path: Path) -> None:
    """Keep an export of another model, whose own .onnx file this may be."""
    try:
        manifest = read_manifest(manifest_path)
    except BadInput:
        return
    if (manifest_path.parent / manifest.model.path).resolve() != path.resolve():
        raise BadInput(
            f"{manifest_path} belongs to {manifest.model.path} and would be overwritten",
            hint=f"export {manifest.model.path}, or choose another folder with -o",
        )


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


@dataclass(frozen=True)
class _Reference:
    """Inputs, and what the foreign file itself answers."""

    images: Array
    outputs: Array
    batches: tuple[int, ...]


def _reference(
    path: Path, shape: tuple[int, ...], batches: tuple[int, ...], seed: int
) -> _Reference:
    """Run the foreign file on uniform inputs in [0, 1] and on normal ones, half each."""
    n = max(batches)
    rng = np.random.default_rng(seed)
    images = rng.random((n, *shape), dtype=np.float32)
    images[(n + 1) // 2 :] = rng.standard_normal((n // 2, *shape), dtype=np.float32)
    outputs = onnx_logits(path, images, batches[-1:])
    if not np.isfinite(outputs).all():
        raise BadInput(f"{path} gives values that are not finite", hint="is it fully trained?")
    return _Reference(images, outputs, batches)


def verify_foreign(path: Path, artifact: Path, batches: Sequence[int], seed: int) -> str:
    """Compare a .tflite file with the foreign .onnx file it was made from, once more.

    Args:
        path: The .onnx file.
        artifact: The .tflite file.
        batches: Batch sizes.
        seed: Seed of the synthetic inputs.

    Returns:
        What was found, one line.

    Raises:
        ArtifactCheckFailed: They differ.
        BadInput: A file cannot be used.
        Missing: A runtime is not installed.
    """
    from sepdeploy.exporters.entry import read_entry

    shape = read_entry(artifact).input.shape
    parity, notes = _prove(artifact, _reference(path, shape, tuple(batches), seed))
    if notes:
        raise Missing(notes[0])
    worst = max(p.max_rel for p in parity)
    runtimes = ", ".join(dict.fromkeys(p.runtime for p in parity))
    return f"{worst:.1e} against {path.name} in {RUNTIME} ({runtimes})"


def _write(foreign: ForeignModel, path: Path, target: str, reference: _Reference) -> ArtifactRecord:
    from sepdeploy.exporters.entry import make_entry
    from sepdeploy.exporters.plan import plan
    from sepdeploy.exporters.tflite_file import write_tflite

    choices = plan(foreign.graph, "tflite", target=target)
    entry = make_entry(foreign.graph, foreign.input, foreign.layers)
    try:
        write_tflite(foreign.graph, path, entry=entry, target=target, choices=choices)
    except BadInput as error:
        raise BadInput(f"{foreign.path}: {error.message}", hint=error.hint) from error
    parity, notes = _prove(path, reference)
    images = len(foreign.input.shape) == 3
    return ArtifactRecord(
        path=path.name,
        format="tflite",
        flavour="standard",
        quantization="none",
        sha256=sha256_file(path),
        file_bytes=path.stat().st_size,
        input_layout="NHWC" if images else "NF",
        input_dtype="float32",
        lowerings=choices,
        parity=parity,
        notes=notes,
    )


def _prove(path: Path, reference: _Reference) -> tuple[tuple[Parity, ...], tuple[str, ...]]:
    """Compare the .tflite file with the foreign one, in every installed runtime."""
    from sepdeploy import measure, runtimes
    from sepdeploy.measure.parity import TOLERANCE, compare

    able = runtimes.installed("tflite")
    if not able:
        return (), (f"{path.name}: not proven, no runtime for .tflite is installed",)
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
            error_found, agreement, same = compare(outputs.reshape(len(outputs), -1), wanted)
            certificate = Parity(
                runtime=runtime,
                version=str(facts["version"]),
                batch=batch,
                max_rel=error_found,
                label_agreement=agreement,
                tolerance=TOLERANCE,
                inputs="synthetic",
                passed=same and error_found <= TOLERANCE,
            )
            if not certificate.passed:
                raise ArtifactCheckFailed(
                    f"{path.name} in {runtime}, batch {batch}: {error_found:.2e} away from the "
                    f".onnx file, more than {TOLERANCE:.0e}",
                    hint="nothing was written; report this file, it must export correctly",
                )
            certificates.append(certificate)
    return tuple(certificates), ()
