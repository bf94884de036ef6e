"""Structure families: what a layer is made of, counted and decomposed with numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sepdeploy.errors import BadInput, unknown_name
from sepdeploy.structures.base import Projection, Spectrum, Structure
from sepdeploy.structures.dense import DenseSpec
from sepdeploy.structures.kron import KronSpec
from sepdeploy.structures.lowrank import LowRankSpec
from sepdeploy.structures.shapes import parse_structure, suggest_shapes, two_modes

__all__ = [
    "STRUCTURES",
    "DenseSpec",
    "KronSpec",
    "LowRankSpec",
    "Projection",
    "Spec",
    "Spectrum",
    "Structure",
    "parse_structure",
    "spec_from_json",
    "suggest_shapes",
    "two_modes",
]

Spec = DenseSpec | KronSpec | LowRankSpec

STRUCTURES: dict[str, type[Spec]] = {
    spec.structure: spec for spec in (DenseSpec, KronSpec, LowRankSpec)
}


def spec_from_json(data: Any, *, where: str = "structure") -> Spec:
    """Read back what ``to_json`` of a spec gave.

    Raises:
        BadInput: Unknown structure, missing or extra keys, sizes that make no sense.
    """
    if not isinstance(data, Mapping):
        raise BadInput(f"{where}: expected an object, found {type(data).__name__}")
    name = data.get("structure")
    if not isinstance(name, str) or name not in STRUCTURES:
        raise unknown_name("structure", str(name)[:40], STRUCTURES)
    values = {str(k): v for k, v in data.items() if k != "structure"}
    try:
        return STRUCTURES[name](**values)
    except TypeError as error:
        raise BadInput(f"{where}: keys {sorted(values)} do not describe a {name}") from error
    except BadInput as error:
        raise BadInput(f"{where}: {error.message}", hint=error.hint) from error
