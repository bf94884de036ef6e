"""The dense reference: the same network with every structured layer as one dense matrix.

It is rebuilt from the weight-free graph in an artifact's entry, with seeded random weights: its
logits mean nothing, its speed and memory are those of the uncompressed model.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import ModelProto, TensorProto, helper

from sepdeploy.errors import BadInput
from sepdeploy.exporters.domain import (
    DOMAIN,
    constant_shapes,
    ensure_domain,
    node_spec,
    structured_nodes,
)
from sepdeploy.exporters.entry import Entry, has_data
from sepdeploy.exporters.formats import PROTOBUF_LIMIT
from sepdeploy.exporters.onnx_graph.graph import copy_model, prune, set_nodes, tensor, tensor_bytes

MAX_DENSE_BYTES = PROTOBUF_LIMIT


def dense_reference(entry: Entry, seed: int = 0) -> ModelProto:
    """A canonical graph without structured layers, any writer can write it.

    Args:
        entry: From ``read_entry``.
        seed: Decides every random weight.

    Raises:
        BadInput: The graph makes no sense, or its dense form would exceed 2 GB.
    """
    model = copy_model(entry.graph)
    shapes = constant_shapes(model)
    for node in structured_nodes(model):
        spec = node_spec(node, shapes)
        weight = f"{node.name}.weight"
        kind = next(t.data_type for t in model.graph.initializer if t.name == node.input[1])
        model.graph.initializer.append(
            TensorProto(name=weight, data_type=kind, dims=[spec.out_features, spec.in_features])
        )
    nodes = [
        helper.make_node(
            "Gemm",
            [n.input[0], f"{n.name}.weight", n.input[-1]],
            list(n.output),
            name=n.name,
            transB=1,
        )
        if n.domain == DOMAIN
        else n
        for n in model.graph.node
    ]
    set_nodes(model.graph, nodes)
    ensure_domain(model)
    prune(model.graph)
    _fill(model, seed)
    return model


def _fill(model: ModelProto, seed: int) -> None:
    """Draw every missing constant with the variance of a fan-in initialisation."""
    total = sum(tensor_bytes(t) for t in model.graph.initializer)
    if total > MAX_DENSE_BYTES:
        raise BadInput(
            f"the dense form of this model has {total / 1e9:.1f} GB of weights",
            hint="compare with a dense file of your own: --dense FILE",
        )
    rng = np.random.default_rng(seed)
    for item in model.graph.initializer:
        if has_data(item) and (item.raw_data or not math.prod(item.dims)):
            continue
        dims = tuple(item.dims)
        kind = helper.tensor_dtype_to_np_dtype(item.data_type)
        if kind.kind != "f":
            item.CopyFrom(tensor(item.name, np.zeros(dims, kind)))
            continue
        fan_in = math.prod(dims[1:]) or 1
        scale = 1 / math.sqrt(fan_in) if len(dims) > 1 else 0.1
        values = rng.standard_normal(dims, dtype=np.float32)
        values *= scale
        # Variances of normalisation layers are 1-D and must not be negative.
        item.CopyFrom(
            tensor(item.name, (np.abs(values) if len(dims) == 1 else values).astype(kind))
        )
