"""Model → files that are proven equal to it.

Everything is written into a staging folder beside the target and checked there: parity in every
installed runtime, then that no runtime multiplies the factors back together. Only when all of it
holds do the files move to their places, the manifest last.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepdeploy import __version__
from sepdeploy.data.evalpack import EvalPack, write_pack
from sepdeploy.errors import BadInput
from sepdeploy.exports.artifact import Job, Proven, write_artifact
from sepdeploy.exports.foreign import export_foreign, is_foreign
from sepdeploy.exports.judged_images import (
    Notify,
    choose_attacks,
    find_test_set,
    make_pack,
    reference_inputs,
    torch_logits,
)
from sepdeploy.exports.manifest import with_earlier
from sepdeploy.exports.options import EvaluationOptions, ExportOptions
from sepdeploy.exports.proof import prove
from sepdeploy.exports.quantize.files import Calibration, Quantized, find_calibration
from sepdeploy.exports.requirements import require_torch
from sepdeploy.exports.staging import move_all, staging
from sepdeploy.files import sha256_file, write_text
from sepdeploy.records import FileRef, InputSpec, Manifest, dump

if TYPE_CHECKING:
    from sepdeploy.models import Model


def export_any(
    model: Model | str | Path,
    stem: str | Path | None,
    out_dir: Path | None,
    *,
    arch: str | None,
    options: ExportOptions,
    evaluation: EvaluationOptions,
    seed: int,
    notify: Notify,
) -> Manifest:
    """Export a model file, a model in memory (saved first), or somebody else's .onnx file.

    Args:
        model: The model or its file.
        stem: Path without suffix of a model in memory; None for a file.
        out_dir: Folder of the exported files; None is that of the model file.
        arch: ``package.module:factory`` of a model file with the user's own architecture.
        options: Formats and flavours.
        evaluation: Evaluation pack; of a foreign file, the data of its calibration.
        seed: Seed of images, attacks and synthetic inputs.
        notify: Told what goes on.

    Raises:
        ArtifactCheckFailed: A written file is wrong; nothing was left.
        BadInput: The model cannot be used, or it has no name or two.
        Missing: torch is not installed, or for a foreign file ONNX Runtime.
    """
    if isinstance(model, (str, Path)):
        path = Path(model)
        if stem is not None:
            raise BadInput("stem names a model in memory; a model file has its own name")
    elif stem is None:
        raise BadInput("exporting a model in memory needs a stem", hint="export(model, 'name')")
    else:
        path = Path(f"{stem}.pt")
    folder = path.parent if out_dir is None else out_dir
    if is_foreign(path):
        return export_foreign(
            path, folder, options=options, evaluation=evaluation, seed=seed, notify=notify
        )
    require_torch("export")
    from sepdeploy.models import load, save

    if not isinstance(model, (str, Path)):
        save(model, path)
    return export_model(
        load(path, arch=arch) if isinstance(model, (str, Path)) else model,  # no name keeps it
        path,
        folder,
        options=options,
        evaluation=evaluation,
        seed=seed,
        notify=notify,
    )


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
    from sepdeploy.exporters.capture.trace import trace
    from sepdeploy.exporters.graph_layers import graph_macs
    from sepdeploy.measure.proof.parity import batches_for

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
    calibration = None
    if options.quantize in ("static", "auto"):
        calibration = _calibration(provenance, input, options, evaluation, seed, notify)

    def proven(path: Path, made: Quantized) -> Proven:
        return prove(
            path,
            path.suffix[1:],
            layers,
            images[:n],
            logits[:n],
            kind,
            quantization=options.quantize,
            precisions=made.precisions,
            only=made.runtimes,
            batches=batches,
            canonical=canonical,
        )

    job = Job(canonical, layers, input, options, proven, notify, calibration)
    with staging(out_dir, stem) as folder:
        artifacts = tuple(
            write_artifact(name, flavour, job, folder / f"{stem}{suffix}")
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
            artifacts=with_earlier(out_dir / f"{stem}.manifest.json", digest, artifacts),
            eval_pack=reference,
            provenance=provenance,
            tool={"name": "sepdeploy", "version": __version__},
        )
        write_text(folder / f"{stem}.manifest.json", dump(manifest))
        move_all(folder, out_dir, last=f"{stem}.manifest.json")
    return manifest


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


def _relative(path: Path, folder: Path) -> str:
    """Return the model's path as seen from the manifest, so that the folder can move as one."""
    return os.path.relpath(path.resolve(), folder.resolve())
