"""What a report shows, gathered from results and what lies beside them; nothing is drawn here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sepdeploy.codec import loads
from sepdeploy.data.evalpack import EvalPack as EvalPack
from sepdeploy.data.evalpack import read_pack
from sepdeploy.errors import BadInput, SepdeployError
from sepdeploy.exports.manifest import read_manifest
from sepdeploy.files import read_bytes
from sepdeploy.records import ArtifactRecord, BenchReport, LayerRecord, Manifest, Result
from sepdeploy.workflows.reporting.differences import Comparison, compare_results
from sepdeploy.workflows.reporting.options import ReportOptions

MAX_HISTORY = 64 << 20
MAX_MANIFESTS = 50  # of a folder are looked into


@dataclass(frozen=True)
class LayerFacts:
    """A layer as an exported file holds it; None where its manifest does not say."""

    record: LayerRecord
    form: str = ""
    precision: str = "float32"
    resident_bytes: int | None = None


@dataclass(frozen=True)
class FileLayers:
    """The layers of one exported file, from the manifest ``origin``; or ``why`` there are none."""

    path: str
    origin: str = ""
    layers: tuple[LayerFacts, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Epoch:
    """One line of a training's history; None where it does not say."""

    epoch: int
    loss: float | None = None
    clean_accuracy: float | None = None
    robust_accuracy: float | None = None


@dataclass(frozen=True)
class Dossier:
    """Everything a report shows.

    ``comparison`` exists for two results and more; ``pack`` holds images and their adversarial
    versions.
    """

    results: tuple[tuple[str, BenchReport], ...]
    layers: tuple[FileLayers, ...]
    history: tuple[Epoch, ...] = ()
    history_path: str = ""
    comparison: Comparison | None = None
    pack: EvalPack | None = None
    pack_path: str = ""


def gather(results: Sequence[tuple[Path, BenchReport]], wanted: ReportOptions) -> Dossier:
    """Gather what a report shows.

    Args:
        results: Each result and its file, which manifests are looked for beside.
        wanted: What else was named.

    Raises:
        BadInput: A history or set that cannot be read, or a set without adversarial images.
    """
    named = tuple((str(path), report) for path, report in results)
    files: dict[str, FileLayers] = {}
    for path, report in results:
        for result in report.results:
            files.setdefault(result.artifact.sha256, _layers(result, path.parent))
    pack = None if wanted.adversarial is None else _set(wanted.adversarial)
    return Dossier(
        named,
        tuple(files.values()),
        () if wanted.history is None else read_epochs(wanted.history),
        str(wanted.history or ""),
        compare_results(named) if len(named) > 1 else None,
        pack,
        str(wanted.adversarial or ""),
    )


def _set(path: Path) -> EvalPack:
    hint = "sepdeploy attack makes a set of adversarial images"
    try:
        pack = read_pack(path)
    except BadInput as error:
        raise BadInput(error.message, hint=hint) from error
    if pack.adversarial is None:
        raise BadInput(f"{path} holds no adversarial images", hint=hint)
    return pack


def read_epochs(path: Path) -> tuple[Epoch, ...]:
    """Read a history file; an incomplete last line is left out, as a running training leaves one.

    Raises:
        BadInput: Unreadable, or a line that is no epoch.
    """
    lines = read_bytes(path, limit=MAX_HISTORY).split(b"\n")[:-1]
    hint = "train writes STEM.history.jsonl beside its model"
    found = []
    for number, line in enumerate(lines, 1):
        try:
            table = loads(line)
        except (ValueError, UnicodeDecodeError) as error:
            raise BadInput(f"{path}: line {number} is not JSON: {error}", hint=hint) from error
        if not isinstance(table, dict) or not isinstance(table.get("epoch"), int):
            raise BadInput(f"{path}: line {number} is no epoch of a training", hint=hint)
        values = [_finite(table.get(n)) for n in ("loss", "clean_accuracy", "robust_accuracy")]
        found.append(Epoch(table["epoch"], *values))
    if not found:
        raise BadInput(f"{path} holds no complete epoch", hint=hint)
    return tuple(found)


def _finite(value: object) -> float | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None  # type: ignore[arg-type]


def _layers(result: Result, beside: Path) -> FileLayers:
    """Find the manifest of a measured file: beside the file, or beside the result."""
    own = Path(result.artifact.path)
    for folder in dict.fromkeys((own.parent, beside)):
        for path in _manifests(folder):
            try:
                manifest = read_manifest(path)
            except SepdeployError:
                continue  # of something else
            for record in manifest.artifacts:
                if record.sha256 == result.artifact.sha256:
                    return FileLayers(str(own), path.name, _facts(manifest, record))
    return FileLayers(str(own), why="no manifest of this file is beside it or beside the result")


def _manifests(folder: Path) -> list[Path]:
    try:
        return sorted(folder.glob("*.manifest.json"))[:MAX_MANIFESTS]
    except OSError:
        return []


def _facts(manifest: Manifest, record: ArtifactRecord) -> tuple[LayerFacts, ...]:
    forms = {c.layer: c.form for c in record.lowerings}
    precisions = {p.layer: p.precision for p in record.precisions}
    resident = {r.layer: r.resident_bytes for r in record.residency}
    return tuple(
        LayerFacts(
            layer,
            forms.get(layer.name, ""),
            precisions.get(layer.name, "float32"),
            resident.get(layer.name),
        )
        for layer in manifest.layers
    )
