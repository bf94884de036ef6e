"""ONNX with int8 weights and activations quantised at run time.

A flat product becomes DynamicQuantizeLinear, MatMulInteger and a scaling, which ONNX Runtime
fuses into one node. Convolutions stay float: both an integer convolution with run-time scales and
a convolution that unpacks its weights on every run were measured slower than float.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from sepdeploy.exporters.onnx_graph.graph import copy_model, prune, set_nodes
from sepdeploy.exporters.quantize.onnx_products import (
    Constants,
    Product,
    book,
    channel_axis,
    products,
)
from sepdeploy.exporters.quantize.scales import Int8Weight, quantize_weight
from sepdeploy.exporters.quantize.scheme import Ledger, Scheme
from sepdeploy.records import LayerPrecision

CONV = "an integer convolution with scales found at run time is slower than float"


def quantize_dynamic(
    model: ModelProto, scheme: Scheme
) -> tuple[ModelProto, tuple[LayerPrecision, ...]]:
    """Return the graph with int8 products, and the precision of every layer.

    Raises:
        BadInput: A weight is not finite.
    """
    result, ledger = copy_model(model), Ledger(scheme)
    by_node = {p.node.output[0]: p for p in products(result, scheme)}
    writer = _Writer(result)
    nodes: list[NodeProto] = []
    for node in result.graph.node:
        product = by_node.get(node.output[0])
        if product is None:
            nodes.append(node)
            continue
        reason = scheme.keep_float.get(product.layer) or product.odd
        reason = reason or (CONV if node.op_type == "Conv" else "")
        book(ledger, product, reason)
        nodes += [node] if reason else writer.product(product, channel_axis(product, scheme))
    set_nodes(result.graph, nodes)
    prune(result.graph)
    return result, ledger.precisions()


class _Writer:
    def __init__(self, model: ModelProto) -> None:
        self.constants = Constants(model.graph)
        self.activations: dict[str, tuple[str, str, str]] = {}

    def product(self, product: Product, axis: int | None) -> list[NodeProto]:
        node = product.node
        prefix = self.constants.unused(f"{node.name or node.output[0]}/int8")
        nodes: list[NodeProto] = []
        source = node.input[0]
        if source not in self.activations:
            parts = ("values", "scale", "zero")
            names = [self.constants.unused(f"{source}/int8/{part}") for part in parts]
            self.activations[source] = (names[0], names[1], names[2])
            made = helper.make_node(
                "DynamicQuantizeLinear", [source], names, name=f"{prefix}/Quantize"
            )
            nodes.append(made)
        values, scale, zero = self.activations[source]
        weight = quantize_weight(product.values, axis)
        if product.transposed:
            weight = Int8Weight(np.ascontiguousarray(weight.values.T), weight.scale, 1)
        stem = product.weight
        inputs = [values, self.constants.own(f"{stem}.int8", weight.values), zero]
        zeros = np.zeros(weight.scale.shape, np.int8)
        inputs.append(self.constants.own(f"{stem}.zero", zeros))
        weight_scale = self.constants.shared(f"{stem}.scale", weight.scale)
        chain: list[tuple[str, list[str], dict[str, Any]]] = [
            ("MatMulInteger", inputs, {}),
            ("Cast", [f"{prefix}/MatMulInteger"], {"to": TensorProto.FLOAT}),
            ("Mul", [scale, weight_scale], {}),
            ("Mul_1", [f"{prefix}/Cast", f"{prefix}/Mul"], {}),
        ]
        if product.bias:
            chain.append(("Add", [f"{prefix}/Mul_1", product.bias], {}))
        for kind, reads, attrs in chain:
            name = f"{prefix}/{kind}"
            op = kind.partition("_")[0]
            nodes.append(helper.make_node(op, list(reads), [name], name=name, **attrs))
        nodes[-1].output[0] = node.output[0]
        return nodes
