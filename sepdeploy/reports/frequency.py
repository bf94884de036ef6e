"""The tables of ``sepdeploy inspect --frequency``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sepdeploy.metrics import percent
from sepdeploy.reports.tables import Cell, Line, Table

if TYPE_CHECKING:
    from sepdeploy.workflows.frequencies import Filtered, FrequencyReport


def frequency_tables(report: FrequencyReport) -> list[str | Line | Table]:
    """Draw where energy lies, what filters leave, and how waves mislead."""
    low, mid = report.limits.values()
    attack = report.shown_attack
    head = (
        f"Frequencies of {report.images} test images of {report.data}"
        + (f", {attack}" if attack else "")
        + f", seed {report.seed}. Radius 1: the finest wave along one axis; "
        f"low ≤ {low:.2f} < mid ≤ {mid:.2f} < high."
    )
    return ["", Line(head), _energy(report), _filters(report), _sensitivity(report), *report.notes]


def _energy(report: FrequencyReport) -> Table:
    bands = list(report.energy[0].shares)
    table = Table(
        ("share of energy, %", *bands, ("in low: mean", "of pixels")),
        right=range(1, len(bands) + 2),
    )
    for row in report.energy:
        if row.images:
            table.add(row.of, *(percent(row.shares[b]) for b in bands), percent(row.constant))
    return table


def _filters(report: FrequencyReport) -> Table:
    found = {(row.kept, row.cutoff): row for row in report.filters}
    attacked = any(row.adversarial_accuracy is not None for row in report.filters)
    faced = [
        (side, face)
        for side in ("low-pass", "high-pass")
        for face in ("", "attacked")[: 1 + attacked]
    ]
    heads: list[Cell] = [(side, face) if face else side for side, face in faced]
    table = Table(("accuracy %, cut-off", *heads), right=range(1, len(heads) + 1))

    def faces(row: Filtered) -> list[str]:
        return [percent(row.clean_accuracy), percent(row.adversarial_accuracy)][: 1 + attacked]

    table.add("none", *faces(found["all", None]) * 2)
    for cutoff in dict.fromkeys(row.cutoff for row in report.filters if row.cutoff is not None):
        table.add(f"{cutoff:g}", *faces(found["low", cutoff]), *faces(found["high", cutoff]))
    return table


def _sensitivity(report: FrequencyReport) -> Table:
    known = report.sensitivity
    said = f"error % with a wave of norm {known.norm:.3g}"
    table = Table((said, "mean", "worst"), right=(1, 2))
    table.add("none", percent(known.clean_error), percent(known.clean_error))
    for name, band in known.bands.items():
        table.add(name, percent(band.mean), percent(band.worst))
    return table
