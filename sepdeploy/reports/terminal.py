"""Tables for the terminal, 80 columns wide, every number beside its unit and kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from sepdeploy.records import BenchReport, LayerRecord, Manifest, Result

if TYPE_CHECKING:
    from sepdeploy.devices import DeviceProfile
    from sepdeploy.workflows.diagnosing import Finding
    from sepdeploy.workflows.inspecting import InspectReport
    from sepdeploy.workflows.verifying import VerifyReport


def _table(*columns: str, right: Sequence[int] = (), title: str = "") -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
        title=title or None,
        title_justify="left",
    )
    for index, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if index in right else "left",
            no_wrap=index in right,
            overflow="fold",
        )
    return table


def count(value: float | None) -> str:
    """Return a whole number with thin grouping: 1,862,666."""
    return "-" if value is None else f"{int(value):,}"


def size(value: float | None) -> str:
    """Return bytes as a short human number."""
    if value is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def micros(milliseconds: float | None) -> str:
    """Return a latency in µs with three significant digits."""
    if milliseconds is None:
        return "-"
    value = milliseconds * 1000
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """Return a fraction as a percentage with one decimal."""
    return "-" if value is None else f"{100 * value:.1f}"


def ratio(value: float | None) -> str:
    """Return a factor like 3.4x."""
    if value is None:
        return "-"
    return f"{value:.0f}x" if value >= 100 else f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"


def _value(result: Result, metric: str) -> float | None:
    found = result.get(metric)
    return None if found is None else found.value


def _kinds(report: BenchReport, metric: str) -> str:
    kinds = {m.kind.value for r in report.results for m in r.measurements if m.metric == metric}
    return "/".join(sorted(kinds)) or "-"


_COLUMNS = (
    ("params", "params", count),
    ("file", "file_bytes", size),
    ("µs", "latency_ms", micros),
    ("vs dense", "latency_vs_dense", ratio),
    ("clean %", "clean_accuracy", percent),
    ("adv %", "adversarial_accuracy", percent),
)


def bench_table(report: BenchReport) -> RenderableType:
    """Draw a bench report: one row per artifact and runtime, then what stands behind it."""
    heads = [f"{title}\n{_kinds(report, metric)}" for title, metric, _ in _COLUMNS]
    table = _table("artifact\nruntime", *heads, right=range(1, len(heads) + 1))
    for result in report.results:
        name = f"{PurePath(result.artifact.path).name}\n{result.runtime.name}"
        device = result.device.get("id", "host")
        if device != "host":
            name += f" @{device}"
        table.add_row(name, *[draw(_value(result, metric)) for _, metric, draw in _COLUMNS])
    return Group(table, *_bench_notes(report))


def _bench_notes(report: BenchReport) -> list[str]:
    notes = [*_attack_notes(report), *_latency_notes(report)]
    for result in report.results:
        name = PurePath(result.artifact.path).name
        notes += result.notes
        notes += [
            f"{name}: no {m.metric}: {m.details['reason']}"
            for m in result.measurements
            if m.value is None and "reason" in m.details
        ]
    return list(dict.fromkeys(notes))


def _attack_notes(report: BenchReport) -> list[str]:
    """Return one line per attack, with the widest interval among the artifacts."""
    widest: dict[str, float] = {}
    for result in report.results:
        for m in result.measurements:
            if m.metric != "adversarial_accuracy" or m.value is None:
                continue
            eps = float(m.details["eps"])
            line = (
                f"adv %: {m.details['attack']}, {m.details['norm']} eps {eps:.4g} "
                f"(= {255 * eps:.3g}/255), {m.n} images, made on the torch model,\n"
                "       judged by the file in its runtime"
            )
            half = 50 * (m.ci[1] - m.ci[0]) if m.ci else 0.0
            widest[line] = max(half, widest.get(line, 0.0))
    return [f"{line}; 95 % interval ±{half:.1f} or less" for line, half in widest.items()]


def _latency_notes(report: BenchReport) -> list[str]:
    notes = []
    for result in report.results:
        latency = result.get("latency_ms")
        if latency is not None and latency.value is not None:
            notes.append(
                f"µs: median, {result.runtime.threads} thread(s), batch "
                f"{latency.details.get('batch', 1)}; dense form timed in turns in the same process"
            )
    return notes


def manifest_table(manifest: Manifest) -> RenderableType:
    """Draw what an export wrote and how each layer was lowered."""
    files = _table("file", "size", "runtime", "parity", "limit", right=(1, 3, 4))
    for artifact in manifest.artifacts:
        worst: dict[str, Any] = {}
        for p in artifact.parity:
            if p.runtime not in worst or p.max_rel > worst[p.runtime].max_rel:
                worst[p.runtime] = p
        rows = list(worst.values())
        for i, p in enumerate(rows):
            name = artifact.path if i == 0 else ""
            length = size(artifact.file_bytes) if i == 0 else ""
            files.add_row(name, length, p.runtime, f"{p.max_rel:.1e}", f"{p.tolerance:.0e}")
        if not rows:
            files.add_row(artifact.path, size(artifact.file_bytes), "none installed", "-", "-")
    lowered = _table("layer", "structure", *[f"{a.format} form" for a in manifest.artifacts])
    by_layer: dict[str, list[str]] = {}
    structures: dict[str, str] = {}
    for artifact in manifest.artifacts:
        for choice in artifact.lowerings:
            by_layer.setdefault(choice.layer, []).append(choice.form)
            structures[choice.layer] = choice.structure
    for layer, forms in by_layer.items():
        lowered.add_row(layer, structures[layer], *forms)
    parts: list[RenderableType] = [files]
    if by_layer:
        parts.append(lowered)
    parts += list(dict.fromkeys(note for a in manifest.artifacts for note in a.notes))
    return Group(*parts)


def _factors(layer: LayerRecord) -> str:
    """Return the factor shapes: "64×28 ⊗ 64×28", twice that many for two summed terms."""
    if layer.structure != "kron":
        return " ".join("×".join(str(n) for n in shape) for shape in layer.factors)
    terms = layer.factors[0][0]
    product = " ⊗ ".join("×".join(str(n) for n in shape[1:]) for shape in layer.factors)
    return product if terms == 1 else f"{terms} ({product})"


def inspect_table(report: InspectReport) -> RenderableType:
    """Draw the layers of a file."""
    table = _table(
        "layer", "structure", "factors", "params", "MACs", "smaller", "cond.", right=(3, 4, 5, 6)
    )
    for layer in report.layers:
        kappa = layer.condition_number
        table.add_row(
            layer.name,
            layer.structure,
            _factors(layer),
            count(layer.params),
            count(layer.macs),
            ratio(layer.params_dense / layer.params if layer.params else None),
            "-" if kappa is None else f"{kappa:.3g}",
        )
    total = report.total
    table.add_section()
    table.add_row(
        "total",
        "",
        "",
        count(total.params),
        count(total.macs),
        ratio(total.params_dense / total.params if total.params else None),
        "",
    )
    head = f"{report.path}  ({report.format}, input {'×'.join(map(str, report.input.shape))})"
    return Group(head, table, *report.notes)


def verify_table(report: VerifyReport) -> RenderableType:
    """Draw what was checked and what it gave."""
    table = _table("file", "check", "result", "found")
    for item in report.items:
        table.add_row(item.path, item.check, item.result if item.result != "failed" else "FAILED", item.found)
    return table


def devices_table(profiles: Iterable[DeviceProfile]) -> RenderableType:
    """Draw the known devices."""
    table = _table("id", "name", "os", "abi", "note")
    for p in profiles:
        table.add_row(p.id, p.name, p.os, p.abi, p.note)
    return table


def profile_table(profile: DeviceProfile) -> RenderableType:
    """Draw one device profile."""
    from sepdeploy.records import to_json

    table = _table("key", "value")
    for key, value in to_json(profile).items():
        table.add_row(key, str(value))
    return table


def doctor_table(findings: Iterable[Finding]) -> RenderableType:
    """Draw what is installed and how to get the rest."""
    table = _table("what", "state", "for", "install")
    for f in findings:
        table.add_row(f.name, f.version if f.present else "missing", f.purpose, f.install)
    return table
