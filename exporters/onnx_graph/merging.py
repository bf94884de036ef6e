"""Small adjacent factors multiplied together in the graph, for writers that keep them apart.

The ONNX forms merge while they write a layer; the TFLite writer takes factors as they stand, so
its graph is merged before. Deterministic, by the writer's own estimate of what a layer costs.
"""

from __future__ import annotations

from onnx import ModelProto, helper

from sepdeploy.exporters.domain import constant_shapes, known_op, node_spec, structured_nodes
from sepdeploy.exporters.families.emit import Emitter, Weight
from sepdeploy.exporters.onnx_graph.graph import (
    copy_model,
    initializers,
    prune,
    set_initializers,
    tensor,
    to_array,
)


def merged_for_tflite(canonical: ModelProto) -> ModelProto:
    """Return the graph that the TFLite writer should get: factors merged where that pays.

    Args:
        canonical: A canonical graph with its weights; it is not changed.

    Returns:
        The same graph where nothing is to be merged, else a copy.

    Raises:
        BadInput: A node whose shapes contradict each other.
    """
    shapes = constant_shapes(canonical)
    found = {
        node.name: merged
        for node in structured_nodes(canonical)
        if (merged := known_op(node.op_type, node.name).merge(node_spec(node, shapes)))
    }
    if not found:
        return canonical
    model = copy_model(canonical)
    known = initializers(model.graph)
    for node in [n for n in structured_nodes(model) if n.name in found]:
        spec, merge = found[node.name]
        *factors, bias = node.input[1:]
        held = [Weight.known(name, to_array(known[name])) for name in factors]
        weights = merge(Emitter(node.name), held)
        for weight in weights:
            if weight.array is not None:
                known[weight.name] = tensor(weight.name, weight.array)
        del node.input[1:]
        node.input.extend([*(w.name for w in weights), bias])
        del node.attribute[:]
        made = known_op(node.op_type, node.name).attributes(spec)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in made.items())
    set_initializers(model.graph, known.values())
    prune(model.graph)
    return model
