"""What is measured on this machine: counted (STATIC) and taken with its clock (HOST)."""

from __future__ import annotations

import math
import pkgutil
import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnx import ModelProto

from sepdeploy import runtimes
from sepdeploy.exporters.dense import dense_reference
from sepdeploy.exporters.entry import Entry
from sepdeploy.exporters.facts import Described
from sepdeploy.exporters.formats import Order, format_of
from sepdeploy.exporters.onnx_file.disk import file_bytes
from sepdeploy.exporters.plan import plan
from sepdeploy.files import scratch
from sepdeploy.metrics import METRICS, measured
from sepdeploy.records import Kind, Measurement, Result, RuntimeRef
from sepdeploy.workflows.bench.judging import JudgingSet
from sepdeploy.workflows.bench.measuring import Task, measure_at
from sepdeploy.workflows.bench.options import BenchOptions
from sepdeploy.workflows.bench.places import HostPlace
from sepdeploy.workflows.bench.subjects import Subject

FLOAT = 1  # onnx.TensorProto.FLOAT
# What takes a metric by itself: of a path, a runtime, its threads and open sizes of inputs
Shapes = Mapping[str, tuple[int, ...]]
Take = Callable[[Path, str, int, Shapes], tuple[Measurement, ...]]


def host_result(
    subject: Subject, runtime: str, options: BenchOptions, judged: tuple[JudgingSet, ...]
) -> Result:
    """Measure one file in one runtime on this machine."""
    version = runtimes.RUNTIMES[runtime].version() or "unknown"
    measurements = _static(subject)
    for name in dict.fromkeys(row.taken_by for row in METRICS.values() if row.taken_by):
        take: Take = pkgutil.resolve_name(name)
        measurements += take(subject.path, runtime, options.threads, options.shapes)
    with scratch() as folder:
        dense, why = dense_form(subject, options, folder)
        here = replace(options, sustained=0.0)  # only a device is kept under load
        task = Task(subject.path, runtime, judged, dense, why, here)
        measurements += measure_at(HostPlace(), task)[0]
    return Result(
        device={"id": "host", "machine": platform.machine()},
        artifact=subject.ref,
        runtime=RuntimeRef(runtime, version, options.threads),
        measurements=tuple(measurements),
        notes=(*_kernel_notes(subject.path, runtime), *_open_notes(subject)),
    )


def _kernel_notes(path: Path, runtime: str) -> tuple[str, ...]:
    """Return what runs a file's custom nodes, for files that have any."""
    claim = runtimes.custom_nodes(path, runtime)
    return (f"{path.name} in {runtime}: {claim.note}",) if claim.nodes else ()


def _open_notes(subject: Subject) -> tuple[str, ...]:
    """Return which sizes of a file were chosen, and by whom."""
    if subject.described is None:
        return ()
    name, inputs = subject.path.name, subject.described.file.inputs
    sizes = [n for p in inputs for n in (p.shape or ())[1:] if isinstance(n, str)]
    if not sizes:
        return ()
    said = ", ".join(dict.fromkeys(sizes))
    return (
        f"{name}: open sizes ({said}) are 1 where inputs are made up; --input-shape fixes them",
    )


def _counted(metric: str, value: float | int | None, **details: Any) -> Measurement:
    return measured(metric, value, Kind.STATIC, details=details)


def _by_itself(path: Path, found: Described) -> list[Measurement]:
    """Count what a file that others wrote says about itself."""
    open_sizes = {} if found.macs is not None else {"reason": "sizes of the file are open"}
    return [
        _counted("params", found.params),
        _counted("params_dense", found.params),
        _counted("macs", found.macs, **open_sizes),
        _counted("file_bytes", file_bytes(path)),
        _counted("factor_bytes", found.param_bytes),
        _counted("condition_number", None, reason="no layer with a known spectrum"),
    ]


def _static(subject: Subject) -> list[Measurement]:
    if subject.entry is None:
        assert subject.described is not None
        return _by_itself(subject.path, subject.described)
    layers = subject.entry.layers
    kappas = [
        (layer.condition_number, layer.name)
        for layer in layers
        if layer.condition_number is not None
    ]
    worst = max(kappas, default=(None, ""))
    found = [
        _counted("params", sum(x.params for x in layers)),
        _counted("params_dense", sum(x.params_dense for x in layers)),
        _counted("macs", sum(x.macs for x in layers)),
        _counted("file_bytes", file_bytes(subject.path)),
        _counted("factor_bytes", _factor_bytes(subject.entry)),
        _counted("condition_number", worst[0], layer=worst[1])
        if kappas
        else _counted("condition_number", None, reason="no layer with a known spectrum"),
    ]
    if subject.record is not None and subject.record.parity:
        parity = max(subject.record.parity, key=lambda p: p.max_rel)
        found.append(
            _counted("parity_max_rel", parity.max_rel, runtime=parity.runtime, batch=parity.batch)
        )
    return found


def _factor_bytes(entry: Entry) -> int:
    """Return the bytes of all parameters of the canonical graph."""
    return sum(math.prod(t.dims) * 4 for t in entry.graph.graph.initializer if t.data_type == FLOAT)


def dense_form(subject: Subject, options: BenchOptions, folder: Path) -> tuple[Path | None, str]:
    """Return the dense reference file, or why there is none."""
    if options.dense is not None:
        if options.dense.suffix != subject.path.suffix:
            return None, f"{options.dense.name} is of another format"
        return options.dense, ""
    if subject.entry is None:
        return None, "a file of others has no dense form"
    if all(layer.structure == "dense" for layer in subject.entry.layers):
        if any(layer.part_of is not None for layer in subject.entry.layers):
            return None, "no dense form of factored convolutions is made; time one with --dense"
        return None, "the file is dense itself"
    path = folder / f"dense{subject.path.suffix}"
    write_plain(dense_reference(subject.entry, options.seed), path)
    return path, ""


def write_plain(graph: ModelProto, path: Path) -> None:
    """Write a canonical graph in the format of the path's suffix, with the same writers."""
    row = format_of(path)
    row.write(Order(graph, plan(graph, row.name)), path)
