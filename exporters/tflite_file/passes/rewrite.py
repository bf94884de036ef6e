"""Patterns of ONNX nodes that one TFLite operator computes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sepdeploy.exporters.tflite_file.source import Node, Source


def rewrite(source: Source) -> None:
    """Replace known patterns in place; what they computed besides is left to be dropped."""
    view = _View(source)
    for node in list(source.nodes):
        if node.op == "Erf" and not node.domain:
            _gelu(view, node)
        elif node.op == "HardSigmoid" and not node.domain:
            _hard_swish(view, node)
        elif node.op == "Softplus" and not node.domain:
            _mish(view, node)


@dataclass
class _View:
    """Who computes and who reads each name."""

    source: Source

    def __post_init__(self) -> None:
        self.producer = {o: n for n in self.source.nodes for o in n.outputs}
        self.readers: dict[str, list[Node]] = {}
        for node in self.source.nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)

    def reader(self, name: str) -> Node | None:
        """The only reader of a name."""
        readers = self.readers.get(name, [])
        alone = len(readers) == 1 and name not in self.source.outputs
        return readers[0] if alone else None

    def number(self, name: str) -> float | None:
        """The value of a constant of one element."""
        array = self.source.constants.get(name)
        if array is None and (node := self.producer.get(name)) and node.op == "Constant":
            array = node.attributes.get("value")
            if array is None and "value_float" in node.attributes:
                array = np.asarray(node.attributes["value_float"])
        return None if array is None or array.size != 1 else float(array.reshape(-1)[0])

    def with_number(self, node: Node | None, op: str, value: float) -> str | None:
        """The other operand of ``op`` with a constant operand of that value."""
        if node is None or node.op != op or node.domain or len(node.inputs) != 2:
            return None
        for own, other in (node.inputs, node.inputs[::-1]):
            if op == "Div" and own is not node.inputs[1]:
                continue
            number = self.number(own)
            if number is not None and math.isclose(number, value, rel_tol=1e-4):
                return other
        return None

    def replace(self, last: Node, op: str, x: str, attributes: dict[str, object]) -> None:
        """Let ``op(x)`` compute what the pattern's last node does."""
        at = self.source.nodes.index(last)
        self.source.nodes[at] = Node(op, "", last.name, [x], last.outputs, dict(attributes))


def _gelu(view: _View, erf: Node) -> None:
    """x/2 (1 + erf(x / sqrt 2)), with the half multiplied in anywhere."""
    scaled = view.producer.get(erf.inputs[0])
    x = view.with_number(scaled, "Div", math.sqrt(2)) or view.with_number(
        scaled, "Mul", math.sqrt(0.5)
    )
    one = view.reader(erf.outputs[0])
    if x is None or one is None or view.with_number(one, "Add", 1.0) is None:
        return
    product = view.reader(one.outputs[0])
    if product is None or product.op != "Mul" or product.domain:
        return
    other = next((i for i in product.inputs if i != one.outputs[0]), "")
    if other == x:
        last = view.reader(product.outputs[0])
        if last is not None and view.with_number(last, "Mul", 0.5) is not None:
            view.replace(last, "Gelu", x, {})
    elif view.with_number(view.producer.get(other), "Mul", 0.5) == x:
        view.replace(product, "Gelu", x, {})
    elif view.with_number(product, "Mul", 0.5) is not None:
        last = view.reader(product.outputs[0])
        if last is not None and last.op == "Mul" and not last.domain and x in last.inputs:
            view.replace(last, "Gelu", x, {})


def _mish(view: _View, softplus: Node) -> None:
    """X times the tanh of Softplus(x)."""
    tanh = view.reader(softplus.outputs[0])
    product = view.reader(tanh.outputs[0]) if tanh and tanh.op == "Tanh" else None
    if tanh is None or product is None or product.op != "Mul" or product.domain:
        return
    x = softplus.inputs[0]
    if sorted(product.inputs) == sorted([x, tanh.outputs[0]]):
        view.replace(product, "Mish", x, {})


def _hard_swish(view: _View, gate: Node) -> None:
    """Replace x times HardSigmoid(x) with slope 1/6 and offset 1/2."""
    slope, offset = gate.attributes.get("alpha", 0.2), gate.attributes.get("beta", 0.5)
    product = view.reader(gate.outputs[0])
    if product is None or product.op != "Mul" or product.domain:
        return
    if math.isclose(slope, 1 / 6, rel_tol=1e-5) and math.isclose(offset, 0.5, rel_tol=1e-6):
        x = gate.inputs[0]
        if sorted(product.inputs) == sorted([x, gate.outputs[0]]):
            view.replace(product, "HardSwish", x, {})
