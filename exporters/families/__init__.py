"""The structure families as the exporters know them, one file each and a row in ``FAMILIES``."""

from __future__ import annotations

from sepdeploy.exporters.families.debut import DEBUT
from sepdeploy.exporters.families.family import Family
from sepdeploy.exporters.families.kron import KRON
from sepdeploy.exporters.families.lowrank import LOWRANK

__all__ = ["FAMILIES", "Family", "family_of_op"]

FAMILIES: dict[str, Family] = {family.structure: family for family in (KRON, LOWRANK, DEBUT)}


def family_of_op(op_type: str) -> Family | None:
    """The family whose op has this name, None where this version knows none."""
    return next((f for f in FAMILIES.values() if f.op_type == op_type), None)
