"""What the planner knows about a lowering form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from sepdeploy.structures import Spec

B = TypeVar("B")


@dataclass(frozen=True)
class Form(Generic[B]):
    """One way to write a structured layer in a file format.

    Attributes:
        name: As it stands in the manifest and in node names.
        refuse: Why this form cannot be used for a layer, "" where it can.
        cost: Estimated time on one core; only the order of two forms matters.
        weights: How many weights the form holds, bias left out.
        build: Writes the layer; its type is the format's own.
        note: Why it was taken, for the manifest.
    """

    name: str
    refuse: Callable[[Spec], str]
    cost: Callable[[Spec], float]
    weights: Callable[[Spec], int]
    build: B
    note: str = ""
