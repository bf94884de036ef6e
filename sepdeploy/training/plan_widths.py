"""Choosing hidden widths and ranks for a parameter budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sepdeploy.records import InputSpec
from sepdeploy.training.recipe import Recipe, structure_map


@dataclass(frozen=True)
class NetworkPlan:
    """What to pass to ``models.create``, and one line about why."""

    structure: str | dict[str, str]
    options: dict[str, Any] = field(default_factory=dict)
    message: str = ""


def plan_network(recipe: Recipe, input: InputSpec, classes: int) -> NetworkPlan:
    """Return structure and options."""
    options = {"hidden": recipe.hidden} if recipe.hidden else {}
    return NetworkPlan(structure_map(recipe.structure), options)
