"""Somebody else's ONNX file → a .tflite file, or a quantised one, that is proven equal to it.

torch is not needed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sepdeploy import __version__
from sepdeploy.errors import BadInput
from sepdeploy.exports.artifact import Job, Proven, write_artifact
from sepdeploy.exports.foreign_proof import make_reference, prove_foreign
from sepdeploy.exports.judged_images import Notify, find_data
from sepdeploy.exports.manifest import read_manifest, with_earlier
from sepdeploy.exports.options import EvaluationOptions, ExportOptions
from sepdeploy.exports.quantize.files import Quantized, calibrate, no_images
from sepdeploy.exports.staging import move_all, staging
from sepdeploy.files import sha256_file, write_text
from sepdeploy.records import (
    ArtifactRecord,
    FileRef,
    InputSpec,
    LayerRecord,
    Manifest,
    dump,
)

if TYPE_CHECKING:
    import onnx

    from sepdeploy.data import Dataset

ONLY = "a foreign .onnx file is exported to .tflite: -f tflite; or quantised: --quantize dynamic"
CALIBRATED = ("static", "auto")


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
    from sepdeploy.exporters.capture.normalize import fixed_batch, input_shape, normalize
    from sepdeploy.exporters.capture.onnx_source import read_onnx
    from sepdeploy.exporters.graph_layers import graph_layers

    light, weights = read_onnx(path)
    graph = normalize(light, weights, where=str(path), notify=notify)
    spec = InputSpec(input_shape(graph, str(path)))
    return ForeignModel(path, graph, spec, graph_layers(graph), fixed_batch(graph))


def export_foreign(
    path: Path,
    out_dir: Path,
    *,
    options: ExportOptions,
    evaluation: EvaluationOptions,
    seed: int,
    notify: Notify,
) -> Manifest:
    """Write ``STEM.tflite`` and ``STEM.manifest.json`` from a foreign ONNX file.

    With a quantisation ``STEM.onnx`` as well, where that is not the foreign file itself.

    Args:
        path: The .onnx file; the exported files take its stem.
        out_dir: Their folder.
        options: Of the export; the format "onnx" beside "tflite" is passed over where there is
            nothing to write.
        evaluation: Its data set is what static quantisation is calibrated with, and what a file
            quantised so is compared on.
        seed: Seed of the synthetic inputs.
        notify: Told what goes on.

    Raises:
        ArtifactCheckFailed: The .tflite file differs from the .onnx file; nothing was written.
        BadInput: The file cannot be read or has something that TFLite has no form for.
        Missing: ONNX Runtime is not installed.
    """
    from sepdeploy.exporters.graph_layers import graph_macs
    from sepdeploy.measure.proof.parity import batches_for

    formats = _formats(path, out_dir, options)
    if options.flavour == "custom":
        raise BadInput(
            f"{path}: the custom flavour is for models with structured layers of their own",
            hint="drop --flavour custom",
        )
    stem = path.stem
    _refuse_clash(path, out_dir / f"{stem}.manifest.json")
    foreign = read_foreign(path, notify)
    batches = batches_for(graph_macs(foreign.graph)) if foreign.batch is None else (foreign.batch,)
    images, calibration = None, None
    if options.quantize in CALIBRATED and (found := _data(foreign, evaluation, notify)) is not None:
        images = found.test.take(max(batches), seed).batch(slice(None))
        calibration = calibrate(found, options.calibration_samples, seed)
    if options.quantize == "static" and calibration is None:
        raise no_images()
    reference = make_reference(path, foreign.input.shape, batches, seed, images)

    def proven(file: Path, _: Quantized) -> Proven:
        parity, notes = prove_foreign(file, reference, options.quantize, foreign.graph)
        return parity, (), notes  # nothing in it is structured

    job = Job(foreign.graph, foreign.layers, foreign.input, options, proven, notify, calibration)
    with staging(out_dir, stem) as folder:
        artifacts = tuple(_write(name, job, folder / f"{stem}.{name}", path) for name in formats)
        digest = sha256_file(path)
        manifest = Manifest(
            stem=stem,
            model=FileRef(os.path.relpath(path.resolve(), out_dir.resolve()), digest),
            input=foreign.input,
            layers=foreign.layers,
            artifacts=with_earlier(out_dir / f"{stem}.manifest.json", digest, artifacts),
            provenance={"source": "onnx"},
            tool={"name": "sepdeploy", "version": __version__},
        )
        write_text(folder / f"{stem}.manifest.json", dump(manifest))
        move_all(folder, out_dir, last=f"{stem}.manifest.json")
    return manifest


def _formats(path: Path, out_dir: Path, options: ExportOptions) -> tuple[str, ...]:
    """Return the formats to write: .onnx only if quantised, and never over the foreign file."""
    wanted = tuple(dict.fromkeys(options.formats))
    if options.quantize == "none":
        wanted = tuple(f for f in wanted if f != "onnx")
        why, hint = f"{path} is an ONNX file already", ONLY
    else:
        if (out_dir / path.name).resolve() == path.resolve():
            wanted = tuple(f for f in wanted if f != "onnx")
        why, hint = f"the quantised .onnx file would replace {path}", "choose a folder with -o"
    if not wanted:
        raise BadInput(why, hint=hint)
    return wanted


def _data(foreign: ForeignModel, evaluation: EvaluationOptions, notify: Notify) -> Dataset | None:
    return find_data(
        {},
        data=evaluation.data,
        data_dir=evaluation.data_dir,
        shape=foreign.input.shape,
        notify=notify,
    )


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


def _write(name: str, job: Job, path: Path, source: Path) -> ArtifactRecord:
    try:
        return write_artifact(name, "standard", job, path)
    except BadInput as error:
        raise BadInput(f"{source}: {error.message}", hint=error.hint) from error
