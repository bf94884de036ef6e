"""Measure exported files: what they weigh, how fast they are, and how well they hold.

Everything is taken from the file itself, in its runtime. Gradient attacks need the torch model
the file was made from (its digest must be the manifest's); without it the evaluation pack is
used, and an attack that is in neither cannot be measured.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from sepdeploy import __version__, measure, runtimes
from sepdeploy.devices import profile
from sepdeploy.errors import ArtifactCheckFailed, BadInput, Incomparable, Missing
from sepdeploy.exporters.dense import dense_reference
from sepdeploy.exporters.entry import Entry, read_entry
from sepdeploy.exporters.onnx_file import write_onnx
from sepdeploy.exporters.plan import plan
from sepdeploy.exporters.tflite_file import write_tflite
from sepdeploy.files import sha256_file
from sepdeploy.records import (
    ArtifactRecord,
    ArtifactRef,
    BenchReport,
    Kind,
    Manifest,
    Measurement,
    Result,
    RuntimeRef,
)
from sepdeploy.workflows.evaluation import Notify
from sepdeploy.workflows.exporting import read_manifest
from sepdeploy.workflows.judging import JudgingSet, judging_sets
from sepdeploy.workflows.verifying import find_manifests

SUFFIXES = (".onnx", ".tflite")
FLOAT = 1  # onnx.TensorProto.FLOAT


@dataclass(frozen=True)
class BenchOptions:
    """What is measured and how; the fields are those of the command line."""

    device: str = "host"
    attack: str | None = None
    eps: str | float | None = None
    norm: str | None = None
    samples: int = 1000
    data: str | None = None
    data_dir: str | Path | None = None
    runtime: str | None = None
    threads: int = 1
    batch: int = 1
    dense: Path | None = None
    against: Path | None = None
    calibrate: bool = False
    require: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Subject:
    """One file to bench, with its manifest and its row there, where both exist."""

    path: Path
    sha256: str
    entry: Entry
    manifest_path: Path | None = None
    manifest: Manifest | None = None
    record: ArtifactRecord | None = None

    @property
    def ref(self) -> ArtifactRef:
        """The file as it stands in a result."""
        record = self.record
        return ArtifactRef(
            path=str(self.path),
            sha256=self.sha256,
            format=self.path.suffix[1:],
            flavour=record.flavour if record else "unknown",
            quantization=record.quantization if record else "unknown",
        )


def bench_artifacts(paths: Sequence[Path], options: BenchOptions, notify: Notify) -> BenchReport:
    """Bench files on the devices of ``options``.

    Raises:
        ArtifactCheckFailed: A file is not the one its manifest describes.
        BadInput: A file or name that cannot be used.
        Incomparable: Nothing was measured.
        Missing: A runtime or a required kind is absent.
    """
    wanted = _required_kind(options.require)
    devices = [profile(name.strip()) for name in options.device.split(",") if name.strip()]
    if not devices:
        raise BadInput("no device named", hint="--device host")
    results: list[Result] = []
    judged: dict[Path | None, tuple[JudgingSet, ...]] = {}
    for subject in find_subjects(paths):
        chosen = _runtimes(subject.path, options.runtime)
        if not chosen:
            notify(f"{subject.path}: skipped, {_no_runtime(subject.path)}")
            continue
        key = subject.manifest_path or subject.path
        if key not in judged:
            judged[key] = judging_sets(subject.manifest_path, subject.manifest, options, notify)
        for runtime in chosen:
            notify(f"measuring {subject.path} in {runtime}")
            results.append(_host_result(subject, runtime, options, judged[key]))
    if not results:
        raise Incomparable("nothing was measured", hint="sepdeploy doctor shows missing runtimes")
    kinds = {m.kind for r in results for m in r.measurements if m.value is not None}
    if wanted is not None and wanted not in kinds:
        raise Missing(
            f"--require {wanted.value.lower()}: only {', '.join(sorted(k.value for k in kinds))}"
            " could be had",
            hint="is the device reachable? sepdeploy doctor",
        )
    return BenchReport(
        tool={"name": "sepdeploy", "version": __version__, "command": "bench"},
        host=measure.host_facts(),
        results=tuple(results),
    )


def _required_kind(text: str | None) -> Kind | None:
    if text is None:
        return None
    try:
        return Kind(text.upper())
    except ValueError as error:
        known = ", ".join(k.value.lower() for k in Kind)
        raise BadInput(f"unknown kind '{text}'", hint=f"known: {known}") from error


def find_subjects(paths: Sequence[Path]) -> tuple[Subject, ...]:
    """Return the files to bench: those named, those of named manifests, else of the folder's.

    Raises:
        ArtifactCheckFailed: A file differs from what its manifest says.
        BadInput: A path is neither artifact nor manifest, or there is none.
    """
    subjects: list[Subject] = []
    for path in paths or find_manifests(None):
        if path.name.endswith(".json"):
            manifest = read_manifest(path)
            subjects += [
                _subject(path.parent / record.path, path, manifest) for record in manifest.artifacts
            ]
        elif path.suffix in SUFFIXES:
            found = _manifest_of(path)
            subjects.append(_subject(path, *found) if found else _subject(path, None, None))
        else:
            raise BadInput(
                f"{path} is neither .onnx, .tflite nor a manifest",
                hint="sepdeploy export model.pt first",
            )
    return tuple(subjects)


def _manifest_of(path: Path) -> tuple[Path, Manifest] | None:
    """Return the manifest beside a file that names it, by its stem first."""
    candidates = [path.with_suffix(".manifest.json")]
    candidates += sorted(path.parent.glob("*.manifest.json"))
    for candidate in candidates:
        if candidate.is_file():
            manifest = read_manifest(candidate)
            if any(a.path == path.name for a in manifest.artifacts):
                return candidate, manifest
    return None


def _subject(path: Path, manifest_path: Path | None, manifest: Manifest | None) -> Subject:
    digest = sha256_file(path)
    record = None
    if manifest is not None:
        record = next(a for a in manifest.artifacts if a.path == path.name)
        if record.sha256 != digest:
            raise ArtifactCheckFailed(
                f"{path} is not the file that {manifest_path} describes (digest differs)",
                hint="export the model again",
            )
    return Subject(path, digest, read_entry(path), manifest_path, manifest, record)


def _runtimes(path: Path, wanted: str | None) -> tuple[str, ...]:
    if wanted is None:
        return runtimes.installed(path.suffix[1:])
    name = runtimes.choose(path, wanted)
    if name not in runtimes.installed(path.suffix[1:]):
        raise Missing(f"runtime '{name}' is not installed", hint=runtimes.RUNTIMES[name].hint)
    return (name,)


def _no_runtime(path: Path) -> str:
    hints = [r.hint for r in runtimes.RUNTIMES.values() if r.format == path.suffix[1:]]
    return f"no runtime for {path.suffix} is installed ({hints[0]})"


def _host_result(
    subject: Subject, runtime: str, options: BenchOptions, judged: tuple[JudgingSet, ...]
) -> Result:
    """Measure one file in one runtime on this machine."""
    version = runtimes.RUNTIMES[runtime].version() or "unknown"
    measurements = [*_static(subject), measure.measure_resident(subject.path, runtime)]
    measurements += measure.measure_memory(subject.path, runtime, threads=options.threads)
    measurements += _latency(subject, runtime, options)
    measurements += _comparisons(subject, runtime, options)
    for index, judging in enumerate(judged):
        measurements += _accuracy(subject.path, runtime, judging, clean=index == 0)
    return Result(
        device={"id": "host", "machine": platform.machine()},
        artifact=subject.ref,
        runtime=RuntimeRef(runtime, version, options.threads),
        measurements=tuple(measurements),
    )


def _static(subject: Subject) -> list[Measurement]:
    layers = subject.entry.layers

    def counted(metric: str, value: float | int | None, unit: str, **details: Any) -> Measurement:
        return Measurement(metric, value, unit, Kind.STATIC, details=details)

    kappas = [
        (layer.condition_number, layer.name)
        for layer in layers
        if layer.condition_number is not None
    ]
    worst = max(kappas, default=(None, ""))
    found = [
        counted("params", sum(x.params for x in layers), "parameters"),
        counted("params_dense", sum(x.params_dense for x in layers), "parameters"),
        counted("macs", sum(x.macs for x in layers), "MAC"),
        counted("file_bytes", subject.path.stat().st_size, "bytes"),
        counted("factor_bytes", _factor_bytes(subject.entry), "bytes"),
        counted("condition_number", worst[0], "1", layer=worst[1])
        if kappas
        else counted("condition_number", None, "1", reason="no layer with a known spectrum"),
    ]
    if subject.record is not None and subject.record.parity:
        parity = max(subject.record.parity, key=lambda p: p.max_rel)
        found.append(
            counted(
                "parity_max_rel", parity.max_rel, "1", runtime=parity.runtime, batch=parity.batch
            )
        )
    return found


def _factor_bytes(entry: Entry) -> int:
    """Return the bytes of all parameters of the canonical graph."""
    return sum(math.prod(t.dims) * 4 for t in entry.graph.graph.initializer if t.data_type == FLOAT)


def _latency(subject: Subject, runtime: str, options: BenchOptions) -> tuple[Measurement, ...]:
    """Time the file, its dense form taking turns with it in the same process."""
    timing = measure.Timing(batch=options.batch, threads=options.threads)
    with measure.scratch() as folder:
        dense, why = _dense_form(subject, options, folder)
        return measure.measure_latency(
            subject.path, runtime, dense=dense, why_no_dense=why, timing=timing
        )


def _comparisons(subject: Subject, runtime: str, options: BenchOptions) -> list[Measurement]:
    """Time the file against itself and against an older one, where that was asked for."""
    timing = measure.Timing(
        batch=options.batch, threads=options.threads, min_rounds=30, samples_per_round=10
    )
    found: list[Measurement] = []
    if options.calibrate:
        found.append(measure.measure_noise(subject.path, runtime, timing=timing))
    if options.against is not None and options.against.suffix == subject.path.suffix:
        found.append(measure.compare_latency(subject.path, options.against, runtime, timing=timing))
    return found


def _dense_form(subject: Subject, options: BenchOptions, folder: Path) -> tuple[Path | None, str]:
    """Return the dense reference file, or why there is none."""
    if options.dense is not None:
        if options.dense.suffix != subject.path.suffix:
            return None, f"{options.dense.name} is of another format"
        return options.dense, ""
    if all(layer.structure == "dense" for layer in subject.entry.layers):
        return None, "the file is dense itself"
    path = folder / f"dense{subject.path.suffix}"
    write_plain(dense_reference(subject.entry, options.seed), path)
    return path, ""


def write_plain(graph: ModelProto, path: Path) -> None:
    """Write a canonical graph in the format of the path's suffix, with the same writers."""
    choices = plan(graph, path.suffix[1:])
    if path.suffix == ".onnx":
        write_onnx(graph, path, choices=choices)
    else:
        write_tflite(graph, path, choices=choices)


def _accuracy(path: Path, runtime: str, judging: JudgingSet, *, clean: bool) -> list[Measurement]:
    details = {"data": judging.data, "images_from": judging.source}
    images, labels = judging.images, judging.labels
    found: list[Measurement] = []
    if clean:
        found.append(measure.clean_accuracy(path, runtime, images, labels, details=details))
    if judging.adversarial is not None:
        found.append(
            measure.adversarial_accuracy(
                path, runtime, images, judging.adversarial, labels,
                details=details, **judging.attack,
            )
        )  # fmt: skip
    return found
