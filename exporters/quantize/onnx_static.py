"""ONNX with int8 weights and activations by calibrated ranges: QuantizeLinear/DequantizeLinear.

A pair stands behind every activation that an integer product reads, at the place where it is
computed, and again behind each operator that only moves it, always with the same scale. So the
runtime finds an integer form for the product, for what moves its operands, and for residual sums,
and drops the pairs. Layers that stay float read the dequantised value.

Activations are uint8, weights int8: the runtime's own conversion of int8 activations, which x86
kernels need, leaves out those with several readers, and the graph then falls back to float there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, NodeProto, helper

from sepdeploy.exporters.onnx_graph.graph import (
    copy_model,
    producers,
    prune,
    set_nodes,
    to_array,
    use_counts,
)
from sepdeploy.exporters.quantize.onnx_products import (
    Constants,
    Product,
    book,
    channel_axis,
    products,
)
from sepdeploy.exporters.quantize.scales import Affine, quantize_bias, quantize_weight
from sepdeploy.exporters.quantize.scheme import Ledger, Scheme
from sepdeploy.records import LayerPrecision

MOVING = {"Reshape", "Transpose", "MaxPool", "Flatten", "Squeeze", "Unsqueeze"}
CLIPPING = {"Relu", "Clip"}
UNSIGNED = 128  # what uint8 adds to int8


@dataclass
class _Plan:
    """Products to quantise, and the activations that get a pair: value to its root."""

    todo: dict[str, Product] = field(default_factory=dict)
    roots: dict[str, str] = field(default_factory=dict)


def activations(model: ModelProto, scheme: Scheme) -> tuple[str, ...]:
    """Return the activations whose ranges static quantisation needs, in a fixed order."""
    return tuple(dict.fromkeys(_plan(model, scheme, Ledger(scheme)).roots.values()))


def quantize_static(
    model: ModelProto, scheme: Scheme
) -> tuple[ModelProto, tuple[LayerPrecision, ...]]:
    """Return the graph with quantised products, and the precision of every layer.

    Raises:
        BadInput: An activation was not calibrated, or a number is not finite.
    """
    result, ledger = copy_model(model), Ledger(scheme)
    plan = _plan(result, scheme, ledger)
    _Writer(result, scheme, plan).write()
    prune(result.graph)
    return result, ledger.precisions()


def _plan(model: ModelProto, scheme: Scheme, ledger: Ledger) -> _Plan:
    graph, plan = model.graph, _Plan()
    source, counts = producers(graph), use_counts(graph)
    readers = {name: node for node in graph.node for name in node.input}
    outputs = {o.name for o in graph.output}
    for product in products(model, scheme):
        reason = scheme.keep_float.get(product.layer) or product.odd
        book(ledger, product, reason)
        if reason:
            continue
        node = product.node
        plan.todo[node.output[0]] = product
        _trace_back(node.input[0], source, plan)
        value = node.output[0]
        if node.op_type == "Conv" and value not in outputs:  # its integer form has int8 output
            after = readers[value]
            clipped = counts[value] == 1 and after.op_type in CLIPPING
            if clipped and after.output[0] not in outputs:
                value = after.output[0]
            plan.roots.setdefault(value, value)
    return plan


def _trace_back(name: str, source: dict[str, NodeProto], plan: _Plan) -> None:
    """Mark an activation and those that it is moved from."""
    chain = [name]
    while (node := source.get(chain[-1])) is not None and node.op_type in MOVING:
        chain.append(node.input[0])
    for value in chain:
        plan.roots.setdefault(value, chain[-1])


class _Writer:
    def __init__(self, model: ModelProto, scheme: Scheme, plan: _Plan) -> None:
        self.graph, self.scheme, self.plan = model.graph, scheme, plan
        self.constants = Constants(model.graph)
        self.nodes: list[NodeProto] = []
        self.storage = {name: scheme.storage(root) for name, root in plan.roots.items()}

    def write(self) -> None:
        inputs = [i.name for i in self.graph.input if i.name in self.storage]
        for name in inputs:
            self.pair(name)
        for node in list(self.graph.node):
            product = self.plan.todo.get(node.output[0])
            weights = {} if product is None else self.weights(product)
            for i, name in enumerate(node.input):
                if name in self.storage:
                    node.input[i] = f"{name}/dequantized"
                elif name in weights:
                    node.input[i] = weights[name]
            self.nodes.append(node)
            for name in node.output:
                if name in self.storage:
                    self.pair(name)
        set_nodes(self.graph, self.nodes)

    def pair(self, name: str) -> None:
        """Write an activation as uint8 and back."""
        how: Affine = self.storage[name]
        root = self.plan.roots[name]
        scale = self.constants.shared(f"{root}/scale", np.float32(how.scale))
        zero = self.constants.shared(f"{root}/zero", np.uint8(how.zero + UNSIGNED))
        stored = f"{name}/uint8"
        for kind, read, made in (
            ("QuantizeLinear", name, stored),
            ("DequantizeLinear", stored, f"{name}/dequantized"),
        ):
            self.nodes.append(
                helper.make_node(kind, [read, scale, zero], [made], name=f"{name}/{kind}")
            )

    def weights(self, product: Product) -> dict[str, str]:
        """Write weight and bias as integers; return the values to read in their place."""
        axis = channel_axis(product, self.scheme)
        scale = self.storage[product.node.input[0]].scale
        bias = to_array(self.constants.known[product.bias]) if product.bias else None
        if product.node.op_type == "MatMul":
            bias = None
        weight = quantize_weight(product.values, axis, bias=bias, input_scale=scale)
        found = {product.weight: self.dequantize(product.weight, weight.values, weight.scale, axis)}
        if bias is not None:
            stored, bias_scale = quantize_bias(bias, scale, weight.scale)
            along = None if axis is None else 0
            # In units of this product's scales: another reader of the bias has others.
            name = f"{product.weight}.bias"
            found[product.bias] = self.dequantize(name, stored, bias_scale, along)
        return found

    def dequantize(self, name: str, values: object, scale: object, axis: int | None) -> str:
        zeros = np.zeros(np.shape(scale), np.asarray(values).dtype)  # type: ignore[arg-type]
        parts = (("int", values), ("scale", scale), ("zero", zeros))
        reads = [self.constants.own(f"{name}.{part}", data) for part, data in parts]
        attrs = {} if axis is None else {"axis": axis}
        made = self.constants.unused(f"{name}.dequantized")
        title = f"{made.removesuffix('.dequantized')}/Dequantize"
        node = helper.make_node("DequantizeLinear", reads, [made], name=title)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attrs.items())
        self.nodes.append(node)
        return made
