"""What converters are given: the graph under construction, constants, attributes, and choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sepdeploy.errors import GRAPH, BadInput
from sepdeploy.exporters.tflite_file.format.graph import Array
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values.builder import Builder
from sepdeploy.exporters.tflite_file.values.layout import Constant, Value

Item = Value | Constant
Inputs = Sequence[Item | None]


@dataclass
class Context:
    """State shared by the converters of one model."""

    b: Builder = field(default_factory=Builder)
    choices: Mapping[str, str] = field(default_factory=dict)
    opset: int = 20
    custom: bool = False  # structured layers as CUSTOM operators

    def item(self, node: Node, inputs: Inputs, index: int) -> Item:
        """Return an input that must be there."""
        found = self.optional(inputs, index)
        if found is None:
            raise BadInput(f"{node}: input {index} is missing", hint=GRAPH)
        return found

    def optional(self, inputs: Inputs, index: int) -> Item | None:
        """Return an input, or None where it is absent."""
        return inputs[index] if index < len(inputs) else None

    def value(self, node: Node, inputs: Inputs, index: int) -> Value:
        """Return an input as a run-time value (a constant becomes a constant tensor)."""
        return self.b.runtime(self.item(node, inputs, index))

    def array(self, node: Node, inputs: Inputs, index: int) -> Array:
        """Return an input that must be known at export.

        Raises:
            BadInput: It is computed at run time.
        """
        found = self.item(node, inputs, index)
        if isinstance(found, Value):
            raise BadInput(
                f"{node}: input {index} is computed at run time; TFLite needs it as a constant",
                hint="export the model with its weights as initializers and fixed sizes",
            )
        return found.whole(node)

    def optional_array(self, node: Node, inputs: Inputs, index: int) -> Array | None:
        """Return an optional input that must be known at export."""
        return None if self.optional(inputs, index) is None else self.array(node, inputs, index)

    def ints(self, node: Node, name: str, default: Sequence[int] | None = None) -> list[int]:
        """Return an attribute that is a list of integers."""
        return [int(v) for v in self._attribute(node, name, default)]

    def integer(self, node: Node, name: str, default: int | None = None) -> int:
        """Return an integer attribute."""
        return int(self._attribute(node, name, default))

    def number(self, node: Node, name: str, default: float) -> float:
        """Return a float attribute."""
        return float(self._attribute(node, name, default))

    def text(self, node: Node, name: str, default: str) -> str:
        """Return a text attribute."""
        return str(self._attribute(node, name, default))

    def _attribute(self, node: Node, name: str, default: Any) -> Any:
        value = node.attributes.get(name, default)
        if value is None:
            raise BadInput(f"{node} has no attribute '{name}'", hint=GRAPH)
        return value


def axis_of(node: Node, axis: int, rank: int) -> int:
    """Return a possibly negative axis as one in ``range(rank)``.

    Raises:
        BadInput: Outside the rank.
    """
    if not -rank <= axis < rank:
        raise BadInput(f"{node}: axis {axis} is outside a tensor of {rank} dimensions", hint=GRAPH)
    return axis % rank
