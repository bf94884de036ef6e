"""Artifacts layer by layer: against the model they were made from, or against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sepdeploy.data.evalpack import EvalPack
from sepdeploy.errors import BadInput, Missing
from sepdeploy.exporters.formats import named_format
from sepdeploy.exporters.modes import MODES
from sepdeploy.exports.export import Export
from sepdeploy.exports.judged_images import reference_inputs
from sepdeploy.records import Notify
from sepdeploy.workflows.options import ProofOptions

if TYPE_CHECKING:
    from sepdeploy.measure.proof.fidelity import LayerFidelity

LAYERS_SCHEMA = "sepdeploy.layers/1"
TOLERANCE = 3e-5  # of two float files, each within 1e-5 of its model
LEAST_COSINE = 0.9  # of logits of quantised files; below it they are of another function


@dataclass(frozen=True)
class LayerComparison:
    """One artifact in one runtime beside its reference.

    Attributes:
        path: The artifact.
        runtime: Its runtime.
        reference: What it was compared with: a model file or another artifact.
        samples: Images compared.
        inputs: "data" or "synthetic".
        rows: One per layer that both have; the logits last.
        worst: Name of the layer with the lowest SQNR, "" where all are equal bit by bit.
        passed: Whether the logits agree.
        notes: What could not be done and why.
    """

    path: str
    runtime: str
    reference: str
    samples: int
    inputs: str
    rows: tuple[LayerFidelity, ...] = ()
    worst: str = ""
    passed: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayersReport:
    """All comparisons; ``exit_code`` is 6 when logits disagree, 4 where nothing was compared."""

    comparisons: tuple[LayerComparison, ...]
    exit_code: int
    schema: str = LAYERS_SCHEMA


def compare_exports(
    manifests: tuple[Path, ...], wanted: ProofOptions, notify: Notify
) -> LayersReport:
    """Compare exports with their models, in every runtime; see ``sepdeploy.api.verify_layers``.

    Where a model is not at hand, the manifest's .onnx file stands in for it and a note says so.
    """
    found: list[LayerComparison] = []
    for path in manifests:
        notify(f"comparing the layers of {path}")
        found += _export_layers(Export(path), wanted)
    return _report(found)


def compare_files(
    path: Path,
    other: Path,
    seed: int,
    runtime: str | None,
    sizes: Mapping[str, tuple[int, ...]],
) -> LayersReport:
    """Compare artifacts with other ones; see ``sepdeploy.api.compare_artifacts``.

    Of a manifest each file is compared, with the other's of its format, else with its first one.
    """
    from sepdeploy.measure.child import every_runtime
    from sepdeploy.measure.proof import fidelity, outputs

    mine, pack = _artifacts(path)
    theirs, other_pack = _artifacts(other)
    pack = pack or other_pack
    comparisons = []
    for file in mine:
        partner = next((t for t in theirs if t.suffix == file.suffix), theirs[0])
        shape, theirs_shape = outputs.input_shape(file, sizes), outputs.input_shape(partner, sizes)
        chosen = every_runtime(file, [runtime] if runtime else None)[0]
        pair = (file, partner)
        if None not in (shape, theirs_shape) and theirs_shape != shape:
            raise BadInput(
                f"{file} takes inputs {shape}, {partner} takes {theirs_shape}",
                hint="compare artifacts of the same network",
            )
        if shape is None or theirs_shape is None or sizes:
            images, kind = np.zeros((1, 0), np.float32), "synthetic"
            rows = outputs.compare_outputs(pair, chosen, shapes=sizes, seed=seed)
        else:
            clean = None if pack is None else pack.clean()
            fitting = clean if clean is not None and clean.shape[1:] == shape else None
            fixed = outputs.fixed_batch(file) or outputs.fixed_batch(partner)
            images, kind = reference_inputs(shape, fitting, fixed or fidelity.SAMPLES, seed)
            rows = fidelity.compare_artifacts(*pair, images, runtime=chosen)
            if any(outputs.has_several_outputs(f) for f in pair):
                rows += outputs.compare_outputs(
                    pair, chosen, inputs=(images[: fixed or fidelity.SAMPLES],)
                )
        exact = not any(fidelity.has_reduced_weights(f) for f in (file, partner))
        comparisons.append(
            _comparison(str(file), chosen, str(partner), images, kind, rows, exact=exact)
        )
    return _report(comparisons)


def _report(found: list[LayerComparison]) -> LayersReport:
    if any(not c.passed for c in found):
        return LayersReport(tuple(found), 6)
    return LayersReport(tuple(found), 0 if any(c.rows for c in found) else 4)


def _comparison(
    path: str,
    runtime: str,
    reference: str,
    images: NDArray[np.float32],
    kind: str,
    rows: tuple[LayerFidelity, ...],
    *,
    exact: bool,
    notes: tuple[str, ...] = (),
) -> LayerComparison:
    from sepdeploy.measure.proof.fidelity import SAMPLES, worst_layer

    answers = [row for row in rows if row.kind == "output"]
    if exact:
        passed = all(row.max_rel is not None and row.max_rel <= TOLERANCE for row in answers)
    else:
        passed = all((row.cosine or 0) >= LEAST_COSINE or row.max_abs == 0 for row in answers)
        notes = (*notes, "weights of reduced precision: layers differ by their rounding")
    if len(rows) == len(answers):
        notes = (*notes, "no layer of one name in both")
    samples = min(len(images), SAMPLES)
    return LayerComparison(
        path, runtime, reference, samples, kind, rows, worst_layer(rows), passed, notes
    )


def _export_layers(export: Export, wanted: ProofOptions) -> list[LayerComparison]:
    from sepdeploy import runtimes
    from sepdeploy.measure.child import every_runtime
    from sepdeploy.measure.proof import fidelity

    manifest, pack = export.manifest, export.pack
    if manifest.input is None:
        raise BadInput(
            f"{export.path}: layers are compared for networks of one float input",
            hint="sepdeploy verify --against compares every output",
        )
    clean = None if pack is None else pack.clean()
    images, kind = reference_inputs(manifest.input.shape, clean, fidelity.SAMPLES, wanted.seed)
    source, _ = export.source(wanted.arch)
    canonical = None if source is None else source.canonical
    found = []
    for artifact in manifest.artifacts:
        file = export.folder / artifact.path
        if not file.is_file() or not runtimes.installed(artifact.format):
            why = "the file is missing" if not file.is_file() else "no runtime is installed"
            none = LayerComparison(artifact.path, "", "", 0, kind, notes=(f"not compared: {why}",))
            found.append(none)
            continue
        exact = not MODES[artifact.quantization].quantized
        sibling = None if canonical else export.stand_in(artifact)
        for runtime in every_runtime(file, None):
            if canonical is not None:
                rows = fidelity.compare_with_oracle(file, runtime, images, canonical)
                reference = manifest.model.path
                notes: tuple[str, ...] = ()
            elif sibling is not None:
                other = export.folder / sibling.path
                rows = fidelity.compare_artifacts(file, other, images, runtime=runtime)
                reference = sibling.path
                notes = ("the model (with torch) is not at hand; its .onnx file stands in",)
            else:
                continue
            found.append(
                _comparison(
                    artifact.path, runtime, reference, images, kind, rows, exact=exact, notes=notes
                )
            )
    if not any(c.rows for c in found):
        raise Missing(
            f"{export.path}: neither its model (with torch; --arch for your own) nor a second file "
            "to compare with",
            hint="pip install 'sepdeploy[train]' and keep the model beside the manifest",
        )
    return found


def _artifacts(path: Path) -> tuple[tuple[Path, ...], EvalPack | None]:
    """Return the artifacts that a path means, and the evaluation pack beside them."""
    if named_format(path):
        if not path.is_file():
            raise BadInput(f"{path}: no such file", hint="check the path")
        return (path,), None
    export = Export(path)
    files = tuple(export.folder / a.path for a in export.manifest.artifacts)
    missing = next((f for f in files if not f.is_file()), None)
    if missing is not None or not files:
        raise BadInput(f"{path}: {missing or 'no file'} is not there", hint="export again")
    return files, export.pack
