"""One exported file: written into the staging folder and proven there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sepdeploy.errors import ArtifactCheckFailed, BadInput
from sepdeploy.exporters.formats import Order
from sepdeploy.exports.named import NamedReference, tensor_specs
from sepdeploy.exports.options import ExportOptions, Output
from sepdeploy.exports.proof import prove
from sepdeploy.exports.quantize.files import Calibration, Quantized, write_quantized
from sepdeploy.exports.source import Reference, Source
from sepdeploy.files import sha256_file
from sepdeploy.records import ArtifactRecord, FileRef, LayerPrecision, LayerRecord, Notify


@dataclass(frozen=True)
class Job:
    """What all files of one export have in common."""

    source: Source
    reference: Reference | NamedReference
    options: ExportOptions
    notify: Notify
    calibration: Calibration | None = None


def write_artifact(job: Job, output: Output, folder: Path) -> ArtifactRecord:
    """Write one file into the staging folder and prove it.

    Raises:
        ArtifactCheckFailed: It is not its source.
        BadInput: The source has something that the format has no form for.
    """
    from sepdeploy.exporters.onnx_file.disk import external_data, file_bytes

    options, source = job.options, job.source
    path = folder / f"{source.path.stem}{output.suffix}"
    order = _order(job, output)
    quantized = Quantized()
    try:
        if options.mode.quantized:
            quantized = write_quantized(
                order, output.format, options.mode, source.layers, job.calibration, path, job.notify
            )
        else:
            output.format.write(order, path)
    except BadInput as error:
        raise source.wrong(error) from error
    try:
        proof = prove(
            path,
            job.reference,
            source.layers,
            quantization=options.quantize,
            precisions=quantized.precisions,
            canonical=source.canonical,
        )
    except ArtifactCheckFailed as failed:
        if not options.mode.falls_back:
            raise
        note = f"auto: every layer stays float: {failed.message}"
        job.notify(note)
        output.format.write(order, path)
        quantized = Quantized(_all_float(source.layers, note), notes=(*quantized.notes, note))
        proof = prove(path, job.reference, source.layers, canonical=source.canonical)
    data, standard = external_data(path), output.format.suffix
    return ArtifactRecord(
        path=path.name,
        format=output.format.name,
        flavour=output.flavour,
        quantization=options.quantize,
        sha256=sha256_file(path),
        file_bytes=file_bytes(path),
        input_layout=output.format.image_layout if _has_images(source) else "NF",
        input_dtype=_input_type(source),
        lowerings=order.choices,
        parity=proof.parity,
        residency=proof.residency,
        notes=(*quantized.notes, *proof.notes),
        precisions=quantized.precisions,
        calibration=quantized.calibration,
        # The standard file, where not everything can run this one.
        sibling="" if output.suffix == standard else f"{source.path.stem}{standard}",
        data=None if data is None else FileRef(data.name, sha256_file(data)),
    )


def _has_images(source: Source) -> bool:
    if source.input is not None:
        return len(source.input.shape) == 3
    return any(len(spec.shape) == 4 for spec in tensor_specs(source.canonical.graph.input))


def _input_type(source: Source) -> str:
    if source.input is not None:
        return "float32"
    kinds = {spec.dtype for spec in tensor_specs(source.canonical.graph.input)}
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _all_float(layers: tuple[LayerRecord, ...], reason: str) -> tuple[LayerPrecision, ...]:
    return tuple(LayerPrecision(layer.name, "float32", reason) for layer in layers)


def _order(job: Job, output: Output) -> Order:
    from sepdeploy.exporters.entry import make_entry
    from sepdeploy.exporters.plan import plan

    source, options = job.source, job.options
    return Order(
        source.canonical,
        plan(
            source.canonical,
            output.format.name,
            flavour=output.flavour,
            runtime=options.tflite_target,
            quantized=options.mode.quantized,
        ),
        # A file of several inputs or other types is described by itself, as those of others are.
        None if source.input is None else make_entry(source.canonical, source.input, source.layers),
        flavour=output.flavour,
        runtime=options.tflite_target,
        simplify=options.simplify,
        merge=True,
    )
