"""Model → files that are proven equal to it.

Everything is written into a staging folder beside the target and checked there: parity in every
installed runtime, then that no runtime multiplies the factors back together. Only when all of it
holds do the files move to their places, the manifest last.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sepdeploy import __version__
from sepdeploy.data.evalpack import EvalPack, write_pack
from sepdeploy.errors import ArtifactCheckFailed, BadInput, SepdeployError, unknown_name
from sepdeploy.files import read_bytes, sha256_file, write_text
from sepdeploy.records import (
    MANIFEST_SCHEMA,
    ArtifactRecord,
    FileRef,
    InputSpec,
    LayerPrecision,
    LayerRecord,
    LoweringChoice,
    Manifest,
    Parity,
    Residency,
    dump,
    parse,
)
from sepdeploy.workflows.evaluation import (
    Notify,
    choose_attacks,
    find_test_set,
    make_pack,
    reference_inputs,
    torch_logits,
)
from sepdeploy.workflows.quantising import (
    CALIBRATION_SAMPLES,
    Calibration,
    Order,
    Quantized,
    find_calibration,
    write_quantized,
)
from sepdeploy.workflows.staging import move_all, staging

if TYPE_CHECKING:
    import onnx

    from sepdeploy.models import Model

FORMATS = ("onnx", "tflite")
FLAVOURS = ("standard", "custom")
TFLITE_TARGETS = ("litert", "tflite-runtime-2.14")
QUANTIZATIONS = ("none", "dynamic", "static", "auto", "fp16")
PARITY_SAMPLES = 32
MAX_MANIFEST = 64 << 20
CUSTOM_TFLITE = ".custom.tflite"
# Function bodies are also run by onnx's own evaluator, as far as that is bearable.
EVALUATOR_MACS, EVALUATOR_SAMPLES = 20_000_000, 3


@dataclass(frozen=True)
class ExportOptions:
    """How the files are written; the values are those of the command line."""

    formats: tuple[str, ...] = FORMATS
    flavour: str = "standard"
    tflite_target: str = "litert"
    simplify: bool = True
    quantize: str = "none"
    calibration_samples: int = CALIBRATION_SAMPLES

    def __post_init__(self) -> None:
        if not self.formats:
            raise BadInput("no format to export", hint="-f onnx -f tflite")
        for what, name, known in (
            *(("format", f, FORMATS) for f in self.formats),
            ("flavour", self.flavour, FLAVOURS),
            ("TFLite target", self.tflite_target, TFLITE_TARGETS),
            ("quantisation", self.quantize, QUANTIZATIONS),
        ):
            if name not in known:
                raise unknown_name(what, name, known)
        if self.calibration_samples < 1:
            raise BadInput("--calibration-samples must be at least 1", hint="128 is the default")
        if self.flavour == "custom" and self.quantize != "none":
            raise BadInput(
                f"--quantize {self.quantize} cannot reach into the functions of the custom flavour",
                hint="drop --flavour custom",
            )

    def files(self) -> tuple[tuple[str, str, str], ...]:
        """Return (format, flavour, suffix) of every file to write.

        A custom .onnx file runs everywhere by its function bodies. A custom .tflite file does
        not, so the standard one is written beside it.
        """
        found = []
        for name in dict.fromkeys(self.formats):
            if name == "onnx" or self.flavour == "standard":
                found.append((name, self.flavour, f".{name}"))
            else:
                found += [(name, "standard", f".{name}"), (name, "custom", CUSTOM_TFLITE)]
        return tuple(found)


@dataclass(frozen=True)
class EvaluationOptions:
    """What the evaluation pack is made from; None means: as the model was trained."""

    data: str | None = None
    data_dir: str | Path | None = None
    attack: str | None = None
    eps: str | float | None = None
    norm: str | None = None
    samples: int = 1000
    wanted: bool = True


def export_model(
    model: Model,
    model_path: Path,
    out_dir: Path,
    *,
    options: ExportOptions,
    evaluation: EvaluationOptions,
    seed: int,
    notify: Notify,
) -> Manifest:
    """Export one model file; see the module docstring.

    Args:
        model: The model, as loaded from ``model_path``.
        model_path: Its file; the exported files take its stem.
        out_dir: Folder of the exported files.
        options: Formats and flavours.
        evaluation: Evaluation pack.
        seed: Seed of images, attacks and synthetic inputs.
        notify: Told what goes on, one line at a time.

    Raises:
        ArtifactCheckFailed: Parity or the re-densification check failed; nothing was written.
        BadInput: The model cannot be lowered, or a file cannot be written.
    """
    from sepdeploy.exporters.graph_layers import graph_macs
    from sepdeploy.exporters.trace import trace
    from sepdeploy.measure.parity import batches_for

    digest, stem = sha256_file(model_path), model_path.stem
    input, provenance = model.input, dict(model.provenance)
    pack = _pack(model, digest, evaluation, seed, notify)
    layers = model.layer_records()
    batches = batches_for(sum(layer.macs for layer in layers))
    images, kind = reference_inputs(
        input.shape, None if pack is None else pack.clean(), max(batches), seed
    )
    logits = torch_logits(model, images)
    canonical = trace(model)
    # The weights are in the graph now: a caller that hands its only reference over frees them,
    # together with what the tracer leaves behind in cycles.
    del model
    gc.collect()
    batches = batches_for(graph_macs(canonical))  # attention counts as well
    n = max(batches)
    job = _Job(
        canonical, layers, input, options, _Proof(images[:n], logits[:n], kind, batches), notify
    )
    if options.quantize in ("static", "auto"):
        found = _calibration(provenance, input, options, evaluation, seed, notify)
        job = replace(job, calibration=found)
    with staging(out_dir, stem) as folder:
        artifacts = tuple(
            _artifact(name, flavour, job, folder / f"{stem}{suffix}")
            for name, flavour, suffix in options.files()
        )
        reference = None
        if pack is not None:
            write_pack(pack, folder / f"{stem}.eval.npz")
            reference = FileRef(
                f"{stem}.eval.npz",
                sha256_file(folder / f"{stem}.eval.npz"),
                {"n": len(pack), **pack.provenance},
            )
        manifest = Manifest(
            stem=stem,
            model=FileRef(_relative(model_path, out_dir), digest),
            input=input,
            layers=layers,
            artifacts=_with_earlier(out_dir / f"{stem}.manifest.json", digest, artifacts),
            eval_pack=reference,
            provenance=provenance,
            tool={"name": "sepdeploy", "version": __version__},
        )
        write_text(folder / f"{stem}.manifest.json", dump(manifest))
        move_all(folder, out_dir, last=f"{stem}.manifest.json")
    return manifest


@dataclass(frozen=True)
class _Proof:
    images: NDArray[np.float32]
    logits: NDArray[np.float32]
    kind: str
    batches: tuple[int, ...]


@dataclass(frozen=True)
class _Job:
    """What all files of one export have in common."""

    canonical: onnx.ModelProto
    layers: tuple[LayerRecord, ...]
    input: InputSpec
    options: ExportOptions
    proof: _Proof
    notify: Notify
    calibration: Calibration | None = None


def _calibration(
    provenance: dict[str, Any],
    input: InputSpec,
    options: ExportOptions,
    wanted: EvaluationOptions,
    seed: int,
    notify: Notify,
) -> Calibration | None:
    return find_calibration(
        provenance,
        data=wanted.data,
        data_dir=wanted.data_dir,
        shape=input.shape,
        samples=options.calibration_samples,
        seed=seed,
        notify=notify,
    )


def _pack(
    model: Model, digest: str, wanted: EvaluationOptions, seed: int, notify: Notify
) -> EvalPack | None:
    if not wanted.wanted:
        return None
    source = find_test_set(
        model.provenance,
        data=wanted.data,
        data_dir=wanted.data_dir,
        shape=model.input.shape,
        notify=notify,
    )
    if source is None:
        notify("no data at hand: no evaluation pack; pass --data to get one")
        return None
    attacks = choose_attacks(
        model.provenance, attack=wanted.attack, eps=wanted.eps, norm=wanted.norm, seed=seed
    )
    if len(attacks) > 1:
        raise BadInput("an evaluation pack holds one attack", hint="pass a single --attack")
    if not attacks:
        notify("the model was not trained against an attack: the pack holds clean images only")
    return make_pack(
        model,
        source,
        attacks[0] if attacks else None,
        samples=wanted.samples,
        model_sha256=digest,
        seed=seed,
        notify=notify,
    )


def _artifact(name: str, flavour: str, job: _Job, path: Path) -> ArtifactRecord:
    """Write one file into the staging folder and prove it."""
    from sepdeploy.exporters.entry import make_entry
    from sepdeploy.exporters.onnx_write import file_bytes
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
            job.canonical,
            name,
            options.quantize,
            job.layers,
            choices,
            entry,
            options.tflite_target,
            options.simplify,
            job.calibration,
        )
        quantized = write_quantized(order, path, job.notify)
    proof = job.proof
    parity, residency, notes = prove(
        path,
        name,
        job.layers,
        proof.images,
        proof.logits,
        proof.kind,
        quantization=options.quantize,
        precisions=quantized.precisions,
        only=quantized.runtimes,
        batches=proof.batches,
    )
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
    from sepdeploy.exporters.onnx_write import external_data

    found = external_data(path)
    return None if found is None else FileRef(found.name, sha256_file(found))


def _standard_name(path: Path) -> str:
    return f"{path.name.removesuffix(CUSTOM_TFLITE)}.tflite"


def _write_float(
    name: str,
    flavour: str,
    job: _Job,
    path: Path,
    entry: str,
    choices: tuple[LoweringChoice, ...],
) -> None:
    options = job.options
    if name == "onnx":
        from sepdeploy.exporters.onnx_file import write_onnx

        write_onnx(
            job.canonical,
            path,
            flavour=flavour,
            entry=entry,
            choices=choices,
            simplify=options.simplify,
        )
        return
    from sepdeploy.exporters.merging import merged_for_tflite
    from sepdeploy.exporters.tflite_file import write_tflite

    graph = merged_for_tflite(job.canonical)
    target = options.tflite_target
    write_tflite(graph, path, entry=entry, target=target, flavour=flavour, choices=choices)


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

    Returns:
        Certificates, residency per structured layer, and notes on what could not be checked.

    Raises:
        ArtifactCheckFailed: A check failed, or no runtime accepts the file.
    """
    from sepdeploy import measure, runtimes
    from sepdeploy.measure.parity import BATCHES

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
        where = f", worst layer {certificate.worst_layer}" if certificate.worst_layer else ""
        return f"parity {certificate.max_rel:.2e} exceeds {certificate.tolerance:.0e}{where}"
    return (
        f"the quantised logits are another function: relative distance {certificate.rel_l2:.2f} "
        f"(at most {certificate.tolerance}), cosine {certificate.cosine:.2f}, "
        f"{certificate.label_agreement:.0%} of labels agree"
    )


def _relative(path: Path, folder: Path) -> str:
    """Return the model's path as seen from the manifest, so that the folder can move as one."""
    return os.path.relpath(path.resolve(), folder.resolve())


def _with_earlier(
    path: Path, digest: str, new: Sequence[ArtifactRecord]
) -> tuple[ArtifactRecord, ...]:
    """Keep what an earlier export of the same model wrote and this one does not replace."""
    replaced = {a.path for a in new}
    try:
        earlier = read_manifest(path)
    except SepdeployError:
        return tuple(new)
    if earlier.model.sha256 != digest:
        return tuple(new)
    kept = [a for a in earlier.artifacts if a.path not in replaced]
    return tuple([a for a in kept if (path.parent / a.path).is_file()] + list(new))


def read_manifest(path: Path) -> Manifest:
    """Read a manifest; the files it names must lie beside it.

    Raises:
        BadInput: Unreadable, not a manifest, or it names no files or files outside its folder.
    """
    manifest = parse(
        Manifest, read_bytes(path, limit=MAX_MANIFEST), schema=MANIFEST_SCHEMA, where=str(path)
    )
    if not manifest.artifacts:
        raise BadInput(f"{path} names no exported file", hint="export the model again")
    for artifact in manifest.artifacts:
        if artifact.format not in FORMATS or not artifact.path.endswith(f".{artifact.format}"):
            raise BadInput(f"{path}: '{artifact.path}' is neither an .onnx nor a .tflite file")
    names = [a.path for a in manifest.artifacts]
    names += [a.data.path for a in manifest.artifacts if a.data]
    names += [manifest.eval_pack.path] if manifest.eval_pack else []
    for name in names:
        if Path(name).name != name or name in ("", ".", ".."):
            raise BadInput(f"{path}: names a file outside its folder: '{name}'")
    return manifest
