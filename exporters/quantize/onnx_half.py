"""ONNX with float16 weights: half the file, the same float32 arithmetic.

Each weight is stored as float16 behind a Cast, which the runtime folds when it loads the file:
speed and memory are those of float32, which is what float16 arithmetic measured at as well.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper

from sepdeploy.exporters.onnx_graph.graph import (
    copy_model,
    initializers,
    set_initializers,
    set_nodes,
    tensor,
    to_array,
)
from sepdeploy.exporters.quantize.scales import half
from sepdeploy.exporters.quantize.scheme import Ledger, Scheme
from sepdeploy.records import LayerPrecision

LEAST_VALUES = 64  # below, a node costs more bytes than its constant saves


def store_half(model: ModelProto, scheme: Scheme) -> tuple[ModelProto, tuple[LayerPrecision, ...]]:
    """Return the graph with float16 weights, and the precision of every layer.

    Raises:
        BadInput: A weight does not fit float16.
    """
    result, ledger = copy_model(model), Ledger(scheme)
    casts, kept = [], []
    readers = {name: node.name for node in reversed(result.graph.node) for name in node.input}
    for name, item in initializers(result.graph).items():
        values = to_array(item) if item.data_type == TensorProto.FLOAT else None
        if values is None or values.size < LEAST_VALUES:
            kept.append(item)
            continue
        # Names from elsewhere say nothing of a layer: its first reader does.
        layer = scheme.layer(name if scheme.knows(name) else readers.get(name, name))
        reason = scheme.keep_float.get(layer, "")
        if values.ndim > 1:
            ledger.add(layer, values.size, 4, reason)
        if reason:
            kept.append(item)
            continue
        kept.append(tensor(f"{name}.fp16", half(np.asarray(values), name)))
        reads, writes = [f"{name}.fp16"], [name]
        casts.append(
            helper.make_node("Cast", reads, writes, name=f"{name}/Cast", to=TensorProto.FLOAT)
        )
    set_nodes(result.graph, [*casts, *result.graph.node])
    set_initializers(result.graph, kept)
    return result, ledger.precisions()
