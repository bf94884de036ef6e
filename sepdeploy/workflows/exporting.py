"""Model → files that are proven equal to it.

Everything is written into a staging folder beside the target and checked there: parity in every
installed runtime, then that no runtime multiplies the factors back together. Only when all of it
holds do the files move to their places, the manifest last.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sepdeploy import __version__
from sepdeploy.codec import dump
from sepdeploy.data.evalpack import EvalPack, write_pack
from sepdeploy.errors import BadInput
from sepdeploy.exports.artifact import Job, write_artifact
from sepdeploy.exports.judged_images import find_data
from sepdeploy.exports.manifest import with_earlier
from sepdeploy.exports.named import tensor_specs
from sepdeploy.exports.onnx_file import OnnxFile, is_foreign
from sepdeploy.exports.options import EXPORTED, EvaluationOptions, ExportOptions
from sepdeploy.exports.quantize.files import Calibration, calibrate, no_images
from sepdeploy.exports.requirements import require_torch
from sepdeploy.exports.source import Source
from sepdeploy.exports.staging import move_all, staging
from sepdeploy.exports.torch_model import TorchModel
from sepdeploy.files import Watched, open_plain, sha256_file, write_text
from sepdeploy.files.claims import Output, claimed
from sepdeploy.records import FileRef, Manifest, Notify

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
    notify: Notify,
) -> Manifest:
    """Export a model file, a model in memory or an .onnx file; see ``sepdeploy.api.export``."""
    if isinstance(model, (str, Path)):
        path = Path(model)
        if stem is not None:
            raise BadInput(
                "stem names a model in memory; a model file has its own name",
                hint="leave stem out; -o DIR puts the files elsewhere",
            )
    elif stem is None:
        raise BadInput("exporting a model in memory needs a stem", hint="export(model, 'name')")
    else:
        path = Path(f"{stem}.pt")
    folder = path.parent if out_dir is None else out_dir
    watched = Watched([path]) if isinstance(model, (str, Path)) else None
    source = _source(model, path, arch, options, notify)
    del model  # the source alone holds it, and frees it when its weights are in the graph
    return export_source(
        source,
        folder,
        options=options,
        evaluation=evaluation,
        notify=notify,
        watched=watched,
    )


def _source(
    model: Model | str | Path,
    path: Path,
    arch: str | None,
    options: ExportOptions,
    notify: Notify,
) -> Source:
    if is_foreign(path):
        if arch is not None:
            raise BadInput(
                f"--arch has no effect on {path}, which says itself what it computes",
                hint="leave --arch out",
            )
        open_plain(path).close()  # there it is, and no pipe
        return OnnxFile(path, notify, options.output, options.shapes)
    options.refuse_shapes(path)
    if options.output:
        raise BadInput(
            f"--output has no effect on {path}, which has one output", hint="leave --output out"
        )
    require_torch("export")
    from sepdeploy.models import load, save

    if isinstance(model, (str, Path)):
        return TorchModel(load(path, arch=arch), path)
    source = TorchModel(model, path)
    save(model, path)
    return source


def export_source(
    source: Source,
    out_dir: Path,
    *,
    options: ExportOptions,
    evaluation: EvaluationOptions,
    notify: Notify,
    watched: Watched | None = None,
) -> Manifest:
    """Export a source; see the module docstring.

    Args:
        source: A torch model or an ONNX file; the exported files take its stem. It is closed.
        out_dir: Folder of the exported files.
        options: Formats and flavours.
        evaluation: Evaluation pack, data to calibrate with, and the seed.
        notify: Told what goes on, one line at a time.
        watched: Holds the digest of the source's file from before it was read.

    Raises:
        ArtifactCheckFailed: Parity or the re-densification check failed; nothing was written.
        BadInput: The source cannot be lowered, or a file cannot be written.
        Missing: A runtime that is needed is not installed.
    """
    outputs = source.outputs(options, out_dir)
    stem = source.path.stem
    watched = watched or Watched([source.path])
    digest = watched.digests[source.path]
    pack = source.pack(evaluation, notify)
    calibration, images = _images(source, pack, options, evaluation, notify)
    reference = source.reference(images, source.batches, evaluation.seed)
    job = Job(source, reference, options, notify, calibration)
    layers = source.layers
    source.close()
    written = [out_dir / f"{stem}{output.suffix}" for output in outputs]
    written += [out_dir / f"{stem}.eval.npz", out_dir / f"{stem}.manifest.json"]
    claims = [Output(path, EXPORTED, "export") for path in written]
    with claimed(claims, (source.path,)), staging(out_dir, stem) as folder:
        artifacts = tuple(write_artifact(job, output, folder) for output in outputs)
        described = None
        if pack is not None:
            file = folder / f"{stem}.eval.npz"
            write_pack(pack, file)
            details = {"n": len(pack), **pack.provenance}
            described = FileRef(file.name, sha256_file(file), details)
        manifest = Manifest(
            stem=stem,
            # A manifest names nothing outside its folder, so that it can move as one and never
            # chooses a file of somebody else's.
            model=FileRef(source.path.name, digest),
            input=source.input,
            layers=layers,
            artifacts=with_earlier(out_dir / f"{stem}.manifest.json", digest, artifacts),
            eval_pack=described,
            provenance=source.provenance,
            tool={"name": "sepdeploy", "version": __version__},
            inputs=() if source.input else tensor_specs(source.canonical.graph.input),
            outputs=() if source.input else tensor_specs(source.canonical.graph.output),
        )
        write_text(folder / f"{stem}.manifest.json", dump(manifest))
        watched.check()
        move_all(folder, out_dir, last=f"{stem}.manifest.json")
    if source.path.resolve().parent not in (out_dir.resolve(), out_dir.resolve().parent):
        notify(f"copy {source.path} there too: verify and bench look for it beside the manifest")
    return manifest


def _images(
    source: Source,
    pack: EvalPack | None,
    options: ExportOptions,
    wanted: EvaluationOptions,
    notify: Notify,
) -> tuple[Calibration | None, NDArray[np.float32] | None]:
    """Return training images to calibrate with, and images to prove the files on.

    Noise says little about an int8 file, and nothing where it is outside the calibrated ranges, so
    such a file is proven on test images where there are some.

    Raises:
        BadInput: There are no images for a quantisation that needs some.
    """
    found = None
    if options.mode.integer and source.input is not None:
        found = find_data(source.provenance, wanted, source.input.shape, notify)
    if found is None and options.mode.needs_images:
        raise no_images()
    calibration = None
    if found is not None and options.mode.calibrated:
        calibration = calibrate(found, options.calibration_samples, wanted.seed)
    if pack is not None:
        return calibration, pack.clean()
    if found is None:
        return None, None
    return calibration, found.test.take(max(source.batches), wanted.seed).batch(slice(None))
