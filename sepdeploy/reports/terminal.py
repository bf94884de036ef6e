"""What commands show, every number beside its unit and kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sepdeploy.metrics import size
from sepdeploy.records import Manifest, Parity
from sepdeploy.reports.page import Page
from sepdeploy.reports.tables import Line, Table
from sepdeploy.reports.terminal_bench import bench_table
from sepdeploy.reports.terminal_inspect import inspect_table

if TYPE_CHECKING:
    from sepdeploy.devices import DeviceProfile
    from sepdeploy.workflows.diagnosing import Finding
    from sepdeploy.workflows.verifying import VerifyReport

__all__ = [
    "bench_table",
    "devices_table",
    "doctor_table",
    "inspect_table",
    "manifest_table",
    "profile_table",
    "verify_table",
]


def manifest_table(manifest: Manifest) -> Page:
    """Draw what an export wrote and how each layer was lowered."""
    files = Table(("file", "size", "runtime", "parity", "limit"), right=(1, 3, 4))
    for artifact in manifest.artifacts:
        worst: dict[str, Parity] = {}
        for p in artifact.parity:
            if p.runtime not in worst or parity_error(p) > parity_error(worst[p.runtime]):
                worst[p.runtime] = p
        rows = list(worst.values())
        for i, p in enumerate(rows):
            name = artifact.path if i == 0 else ""
            length = size(artifact.file_bytes) if i == 0 else ""
            files.add(name, length, p.runtime, f"{parity_error(p):.1e}", f"{p.tolerance:.0e}")
        if not rows:
            files.add(artifact.path, size(artifact.file_bytes), "not proven", "-", "-")
    lowered = Table(("layer", "structure", *[f"{a.format} form" for a in manifest.artifacts]))
    by_layer: dict[str, list[str]] = {}
    structures: dict[str, str] = {}
    for artifact in manifest.artifacts:
        for choice in artifact.lowerings:
            by_layer.setdefault(choice.layer, []).append(choice.form)
            structures[choice.layer] = choice.structure
    for layer, forms in by_layer.items():
        lowered.add(layer, structures[layer], *forms)
    notes = dict.fromkeys(note for a in manifest.artifacts for note in a.notes)
    return Page((files, *([lowered] if by_layer else []), *notes))


def parity_error(parity: Parity) -> float:
    """Return the number that a parity certificate's tolerance bounds."""
    relative = parity.rel_l2 if parity.criterion == "rel_l2" else None
    return parity.max_rel if relative is None else relative


def verify_table(report: VerifyReport) -> Page:
    """Draw what was checked and what it gave."""
    table = Table(("file", "check", "result", "found"))
    for item in report.items:
        table.add(
            item.path, item.check, item.result if item.result != "failed" else "FAILED", item.found
        )
    return Page((table,))


def devices_table(profiles: Iterable[DeviceProfile]) -> Page:
    """Draw the known devices."""
    table = Table(("id", "name", "os", "abi", "note"))
    for p in profiles:
        table.add(p.id, p.name, p.os, p.abi, p.note)
    return Page((table,))


def profile_table(profile: DeviceProfile) -> Page:
    """Draw one device profile: what it is, then every figure with its source."""
    core = f"emulated as {profile.emulate}" if profile.emulate else "cannot be emulated"
    head = f"{profile.id}: {profile.name} ({profile.os}, {profile.abi}), {core}"
    parts: list[str | Line | Table] = [head, *([profile.note] if profile.note else [])]
    figures = profile.figures()
    if figures:
        table = Table(("figure", "value", "source"), right=(1,))
        for figure in figures:
            source = figure.source if figure.verified else f"unverified: {figure.source}"
            table.add(figure.key, f"{figure.value:g}", source)
        parts.append(table)
    return Page(tuple(parts))


def doctor_table(findings: Iterable[Finding]) -> Page:
    """Draw what is installed and how to get the rest."""
    table = Table(("what", "state", "for", "install"))
    for f in findings:
        table.add(f.name, f.version if f.present else "missing", f.purpose, f.install)
    return Page((table,))
