"""Counting a graph: multiply-accumulates, and a layer table where there is no module to ask."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnx import ModelProto, NodeProto

from sepdeploy.exporters.domain import DOMAIN, node_spec
from sepdeploy.exporters.onnx_graph.graph import attributes, value_dims
from sepdeploy.exporters.onnx_graph.shapes import record_shapes
from sepdeploy.exporters.onnx_graph.weights import detach
from sepdeploy.exporters.operations import operator_macs
from sepdeploy.records import LayerRecord
from sepdeploy.structures import DenseSpec

Sizes = Mapping[str, tuple[int, ...]]


def graph_macs(model: ModelProto) -> int:
    """Multiply-accumulates of one sample, products of activations (attention) included."""
    sizes = sample_sizes(model)
    return sum(node_macs(node, sizes) for node in model.graph.node)


def graph_layers(model: ModelProto) -> tuple[LayerRecord, ...]:
    """One record per node that carries weights, in graph order.

    A convolution or product counts its bias where the node itself has one.
    """
    sizes = sample_sizes(model)
    constants = {t.name: tuple(t.dims) for t in model.graph.initializer}
    found = []
    for node in model.graph.node:
        held = [constants[n] for n in node.input[1:] if n in constants]
        if node.domain == DOMAIN:
            spec = node_spec(node, constants)
            params, dense, shapes = spec.params(True), spec.dense_params(True), spec.factor_shapes
            rows = math.prod(sizes.get(node.input[0], (1,))) // spec.in_features
            macs, macs_dense = rows * spec.macs, rows * spec.dense_macs
            found.append(
                LayerRecord(
                    node.name,
                    spec.structure,
                    shapes,
                    params,
                    dense,
                    macs,
                    macs_dense,
                    spec.to_json(),
                )
            )
        elif node.op_type in ("Gemm", "MatMul", "Conv", "ConvTranspose") and held:
            params, macs = sum(map(math.prod, held)), node_macs(node, sizes)
            spec_json = {}
            if len(held[0]) == 2 and node.op_type in ("Gemm", "MatMul"):
                turned = bool(attributes(node).get("transB", 0))
                out, into = held[0] if turned else held[0][::-1]
                spec_json = DenseSpec(into, out).to_json()
            found.append(
                LayerRecord(node.name, "dense", (held[0],), params, params, macs, macs, spec_json)
            )
    return tuple(found)


def sample_sizes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of each value for a batch of one; values of unknown shape are left out."""
    light, _ = detach(model)
    graph = light.graph
    for info in (*graph.input, *graph.value_info, *graph.output):
        for dim in info.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                size = _times(dim.dim_param)
                dim.ClearField("dim_param")
                if size is not None:
                    dim.dim_value = size
    record_shapes(light)
    known = {name: dims for name, dims in value_dims(graph).items() if None not in dims}
    return {name: tuple(d for d in dims if d is not None) for name, dims in known.items()}


def _times(text: str) -> int | None:
    """The value of "batch", "197*batch" or "batch*197" for a batch of one."""
    parts = text.split("*")
    if parts.count("batch") != 1:
        return None
    numbers = [p for p in parts if p != "batch"]
    return math.prod(map(int, numbers)) if all(p.isdigit() for p in numbers) else None


def node_macs(node: NodeProto, sizes: Sizes) -> int:
    """Multiply-accumulates of one node; 0 where its shapes are not known."""
    if node.domain == DOMAIN:
        spec = node_spec(node, sizes)
        return math.prod(sizes.get(node.input[0], (0,))) // spec.in_features * spec.macs
    return operator_macs(node, sizes.get)
