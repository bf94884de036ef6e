"""The products of an ONNX graph: the nodes that multiply an activation by a known weight."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from sepdeploy.exporters.onnx_graph.graph import (
    Array,
    attributes,
    initializers,
    tensor,
    to_array,
)
from sepdeploy.exporters.quantize.scheme import Ledger, Scheme

LEFT = "its constant stands on the left of the product, where int8 was measured slower"
COPIES = 3  # of a weight as int8 that are still smaller than one as float32
SHARED = f"its weight serves more than {COPIES} products, and the runtime wants a copy for each"
SCALE_BYTES = 9  # scale and zero point of the weight, scale of the bias
ODD = "its product is scaled or transposed in a way that has no integer form"


@dataclass(frozen=True)
class Product:
    """One product.

    Attributes:
        node: Gemm, MatMul or Conv.
        layer: The layer it belongs to.
        weight: Name of the weight.
        values: Its numbers.
        axis: Its output channel axis.
        bias: Name of the bias, "" for none.
        odd: Why it has no integer form, "" where it has one.
    """

    node: NodeProto
    layer: str
    weight: str
    values: Array
    axis: int
    bias: str = ""
    odd: str = ""

    @property
    def transposed(self) -> bool:
        """Whether the weight is (out, in)."""
        return self.node.op_type == "Gemm" and bool(attributes(self.node).get("transB", 0))


class Constants:
    """Adds constants to a graph, different ones never under one name."""

    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph
        self.known = initializers(graph)
        self._taken = {name for node in graph.node for name in node.output} | set(self.known)
        self._taken |= {i.name for i in graph.input}

    def unused(self, name: str) -> str:
        """Return a name that no value has, and keep it."""
        found, count = name, 1
        while found in self._taken:
            count += 1
            found = f"{name}.{count}"
        self._taken.add(found)
        return found

    def own(self, name: str, data: object) -> str:
        """Return the name of a constant that only one product reads.

        ONNX Runtime gives int8 weights and their zero points a new name when it rewrites them for
        x86 cores, and refuses a file in which it meets one of them twice.
        """
        item = tensor(self.unused(name), np.asarray(data))
        self.known[item.name] = item
        self.graph.initializer.append(item)
        return item.name

    def shared(self, name: str, data: object) -> str:
        """Return the name of a constant that may be there already."""
        item, count = tensor(name, np.asarray(data)), 1
        while item.name in self._taken:
            if self.known.get(item.name) == item:
                return item.name
            count += 1
            item.name = f"{name}.{count}"
        return self.own(item.name, data)


def products(model: ModelProto, scheme: Scheme) -> list[Product]:
    """Return the products of a graph in its order."""
    known = initializers(model.graph)
    found = [p for node in model.graph.node if (p := _product(node, known, scheme)) is not None]
    uses = Counter(p.weight for p in found)
    return [replace(p, odd=p.odd or SHARED) if uses[p.weight] > COPIES else p for p in found]


def _product(node: NodeProto, known: dict[str, TensorProto], scheme: Scheme) -> Product | None:
    if node.domain not in ("", "ai.onnx") or node.op_type not in ("Gemm", "MatMul", "Conv"):
        return None
    places = [i for i in (1, 0) if node.input[i] in known]
    if len(places) != 1:
        return None
    weight = node.input[places[0]]
    values = to_array(known[weight])
    if values.dtype != np.float32 or values.ndim < 2:
        return None
    layer = scheme.layer(weight) if scheme.knows(weight) else scheme.layer(node.name)
    bias = node.input[2] if len(node.input) > 2 else ""
    if places[0] == 0:
        return Product(node, layer, weight, values, 0, bias, LEFT)
    attrs = attributes(node)
    odd = ODD if node.op_type == "Gemm" and not _plain(attrs) else ""
    if bias and (bias not in known or to_array(known[bias]).ndim != 1):
        odd = odd or ODD
    axis = 0 if node.op_type == "Conv" or attrs.get("transB", 0) else values.ndim - 1
    return Product(node, layer, weight, values, axis, bias, odd)


def _plain(attrs: dict[str, object]) -> bool:
    return attrs.get("alpha", 1.0) == 1.0 == attrs.get("beta", 1.0) and not attrs.get("transA", 0)


def book(ledger: Ledger, product: Product, reason: str) -> None:
    """Note in the ledger how a product's weight is stored; no reason means int8."""
    axis = channel_axis(product, ledger.scheme)
    channels = 1 if axis is None else product.values.shape[axis]
    width, scale_bytes = (4, 0) if reason else (1, channels * SCALE_BYTES)
    ledger.add(product.layer, product.values.size, width, reason, scale_bytes)


def channel_axis(product: Product, scheme: Scheme) -> int | None:
    """Return the axis with a scale each, None for one scale per tensor.

    Per channel is safe for convolutions and flat products; the runtime refuses it at run time for
    a stack of matrices. A structured layer's factors are balanced and gain nothing by it, but
    their small products were measured slower.
    """
    structured = scheme.structures.get(product.layer, "dense") != "dense"
    flat = product.node.op_type == "Conv" or product.values.ndim == 2
    return product.axis if flat and not structured else None
