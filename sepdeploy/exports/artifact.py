"""One exported file: written into the staging folder and proven there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sepdeploy.exports.judged_images import Notify
from sepdeploy.exports.options import CUSTOM_TFLITE, ExportOptions
from sepdeploy.exports.quantize.files import Calibration, Order, Quantized, write_quantized
from sepdeploy.files import sha256_file
from sepdeploy.records import (
    ArtifactRecord,
    FileRef,
    InputSpec,
    LayerRecord,
    LoweringChoice,
    Parity,
    Residency,
)

if TYPE_CHECKING:
    import onnx

# Certificates, residency per structured layer, and notes on what could not be checked.
Proven = tuple[tuple[Parity, ...], tuple[Residency, ...], tuple[str, ...]]


@dataclass(frozen=True)
class Job:
    """What all files of one export have in common; ``prove`` raises where a file is wrong."""

    canonical: onnx.ModelProto
    layers: tuple[LayerRecord, ...]
    input: InputSpec
    options: ExportOptions
    prove: Callable[[Path, Quantized], Proven]
    notify: Notify
    calibration: Calibration | None = None


def write_artifact(name: str, flavour: str, job: Job, path: Path) -> ArtifactRecord:
    """Write one file into the staging folder and prove it."""
    from sepdeploy.exporters.entry import make_entry
    from sepdeploy.exporters.onnx_file.disk import file_bytes
    from sepdeploy.exporters.plan import plan

    options = job.options
    entry = make_entry(job.canonical, job.input, job.layers)
    choices = plan(
        job.canonical,
        name,
        flavour=flavour,
        target=options.tflite_target,
        quantized=options.quantize != "none",
    )
    quantized = Quantized()
    if options.quantize == "none":
        _write_float(name, flavour, job, path, entry, choices)
    else:
        order = Order(
            canonical=job.canonical,
            format=name,
            mode=options.quantize,
            layers=job.layers,
            choices=choices,
            entry=entry,
            target=options.tflite_target,
            simplify=options.simplify,
            calibration=job.calibration,
        )
        quantized = write_quantized(order, path, job.notify)
    parity, residency, notes = job.prove(path, quantized)
    images = len(job.input.shape) == 3
    data = _external_data(path)
    return ArtifactRecord(
        path=path.name,
        format=name,
        flavour=flavour,
        quantization=options.quantize,
        sha256=sha256_file(path),
        file_bytes=file_bytes(path),
        input_layout=("NCHW" if name == "onnx" else "NHWC") if images else "NF",
        input_dtype="float32",
        lowerings=choices,
        parity=parity,
        residency=residency,
        notes=(*quantized.notes, *notes),
        precisions=quantized.precisions,
        calibration=quantized.calibration,
        sibling=_standard_name(path) if (name, flavour) == ("tflite", "custom") else "",
        data=data,
    )


def _external_data(path: Path) -> FileRef | None:
    """Return the file that holds a large graph's weights, if there is one."""
    from sepdeploy.exporters.onnx_file.disk import external_data

    found = external_data(path)
    return None if found is None else FileRef(found.name, sha256_file(found))


def _standard_name(path: Path) -> str:
    return f"{path.name.removesuffix(CUSTOM_TFLITE)}.tflite"


def _write_float(
    name: str,
    flavour: str,
    job: Job,
    path: Path,
    entry: str,
    choices: tuple[LoweringChoice, ...],
) -> None:
    options = job.options
    if name == "onnx":
        from sepdeploy.exporters.onnx_file.write import write_onnx

        write_onnx(
            job.canonical,
            path,
            flavour=flavour,
            entry=entry,
            choices=choices,
            simplify=options.simplify,
        )
        return
    from sepdeploy.exporters.tflite_file import write_tflite

    write_tflite(
        job.canonical,
        path,
        entry=entry,
        target=options.tflite_target,
        flavour=flavour,
        choices=choices,
        merge=True,
    )
