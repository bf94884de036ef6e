"""Emitter: writes the nodes of one lowered layer, into a graph or into a function body.

In a graph the factors are known numbers, so re-arranging them costs nothing and leaves one
constant. In a function body they are inputs: the same call then emits the nodes that re-arrange
them, and reads sizes from their shapes, so that one body serves layers of all sizes. Every
runtime folds those nodes once the body is inlined beside the constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from onnx import NodeProto, TensorProto, helper

from sepdeploy.exporters.onnx_graph.graph import Array, tensor


class Size(int):
    """A size that inside a function body is not a number but element ``axis`` of a shape.

    Attributes:
        source: Value whose shape holds it, or which is itself the one-element size if axis < 0.
        axis: Position in that shape.
    """

    source: str
    axis: int

    def __new__(cls, value: int, source: str, axis: int) -> Self:
        """Make the size; ``value`` is that of the example the body is built with."""
        size = super().__new__(cls, value)
        size.source, size.axis = source, axis
        return size


@dataclass(frozen=True)
class Weight:
    """A factor or a bias: its value name, its shape and, outside function bodies, its numbers."""

    name: str
    shape: tuple[int, ...]
    array: Array | None = None

    @classmethod
    def known(cls, name: str, array: Array) -> Weight:
        """A weight whose numbers are at hand."""
        return cls(name, tuple(array.shape), array)

    @classmethod
    def argument(cls, name: str, shape: tuple[int, ...]) -> Weight:
        """A weight that is an input of a function body."""
        return cls(name, tuple(Size(n, name, axis) for axis, n in enumerate(shape)))


class Emitter:
    """Collects nodes and constants whose names start with ``prefix``.

    Args:
        prefix: First part of every node name, "<layer>/<form>".
        inside_function: Emit constants as Constant nodes (a function has no initializers).
    """

    def __init__(self, prefix: str, *, inside_function: bool = False) -> None:
        self.prefix = prefix
        self.inside_function = inside_function
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self._names: dict[str, int] = {}
        self._ints: dict[tuple[object, ...], str] = {}

    def _fresh(self, stem: str) -> str:
        count = self._names.get(stem, 0)
        self._names[stem] = count + 1
        return f"{self.prefix}/{stem}" + (f"_{count}" if count else "")

    def node(self, op_type: str, *inputs: str, **attrs: Any) -> str:
        """Append a node with one output and return the output's name."""
        name = self._fresh(op_type)
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attrs))
        return name

    def ints(self, values: Sequence[int]) -> str:
        """A vector of int64, one per distinct content."""
        key = tuple((v.source, v.axis) if isinstance(v, Size) else int(v) for v in values)
        if key not in self._ints:
            self._ints[key] = self._make_ints(tuple(values))
        return self._ints[key]

    def _make_ints(self, values: tuple[int, ...]) -> str:
        if not self.inside_function:
            name = self._fresh("shape")
            self.constants[name] = tensor(name, np.array(values, dtype=np.int64))
            return name
        if len(values) > 1:
            return self.node("Concat", *(self.ints([v]) for v in values), axis=0)
        (value,) = values
        if not isinstance(value, Size):
            return self.node("Constant", value_ints=[int(value)])
        if value.axis < 0:
            return value.source
        return self.node("Shape", value.source, start=value.axis, end=value.axis + 1)

    def product(self, a: int, b: int) -> int:
        """Multiply two sizes; in the body where they are only known there."""
        if not self.inside_function:
            return a * b
        return Size(a * b, self.node("Mul", self.ints([a]), self.ints([b])), -1)

    def reshape(self, x: str, *dims: int) -> str:
        """Reshape an activation; -1 stands for the batch."""
        return self.node("Reshape", x, self.ints(dims))

    def weight_reshape(self, weight: Weight, *dims: int) -> Weight:
        """A weight in another shape, of which one dimension may be -1."""
        if weight.array is not None:
            return Weight.known(weight.name, weight.array.reshape(dims))
        return Weight(self.node("Reshape", weight.name, self.ints(dims)), dims)

    def weight_transpose(self, weight: Weight, *perm: int) -> Weight:
        """A weight with its axes permuted."""
        if weight.array is not None:
            return Weight.known(weight.name, np.ascontiguousarray(weight.array.transpose(perm)))
        shape = tuple(weight.shape[axis] for axis in perm)
        return Weight(self.node("Transpose", weight.name, perm=list(perm)), shape)

    def kron_product(self, left: Weight, right: Weight) -> Weight:
        """Termwise Kronecker product of two stacks (K, o, i): two adjacent modes as one."""
        (terms, lo, li), (_, ro, ri) = left.shape, right.shape
        if left.array is not None and right.array is not None:
            spread = left.array[:, :, None, :, None] * right.array[:, None, :, None, :]
            merged = spread.reshape(terms, lo * ro, li * ri)
            return Weight.known(f"{left.name}x{right.name.rpartition('.')[2]}", merged)
        rows, columns = self.product(lo, ro), self.product(li, ri)
        wide_left = self.weight_reshape(left, terms, lo, 1, li, 1)
        wide_right = self.weight_reshape(right, terms, 1, ro, 1, ri)
        product = self.weight_product(wide_left, wide_right)
        return self.weight_reshape(product, terms, rows, columns)

    def weight_product(self, left: Weight, right: Weight) -> Weight:
        """Two weights multiplied element by element, with broadcasting."""
        if left.array is not None and right.array is not None:
            name = f"{left.name}x{right.name.rpartition('.')[2]}"
            return Weight.known(name, left.array * right.array)
        return Weight(self.node("Mul", left.name, right.name), ())

    def use(self, weight: Weight) -> str:
        """The value name to read a weight by; its numbers become a constant of the graph."""
        if weight.array is not None:
            known = self.constants.get(weight.name)
            if known is not None and tuple(known.dims) != weight.shape:
                return self.use(Weight.known(self._fresh("weight"), weight.array))
            self.constants[weight.name] = tensor(weight.name, weight.array)
        return weight.name

    def add_bias(self, y: str, bias: Weight) -> str:
        """``y`` plus the bias; a bias known to be all zero costs no node."""
        if bias.array is not None and not bias.array.any():
            return y
        return self.node("Add", y, self.use(bias))
