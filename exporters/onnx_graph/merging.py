"""Small adjacent Kronecker factors multiplied together in the graph, for writers that keep modes.

The ONNX lowerings merge while they write a layer; the TFLite writer takes modes as they stand, so
its graph is merged before. Deterministic, by the writer's own estimate of what a layer costs.
"""

from __future__ import annotations

from onnx import ModelProto, helper

from sepdeploy.exporters.domain import constant_shapes, node_spec, structured_nodes
from sepdeploy.exporters.lowerings.emit import Emitter, Weight
from sepdeploy.exporters.lowerings.merge import merge_factors, merged_spec
from sepdeploy.exporters.lowerings.tflite_forms import best_groups
from sepdeploy.exporters.onnx_graph.graph import (
    copy_model,
    initializers,
    prune,
    set_initializers,
    tensor,
    to_array,
)
from sepdeploy.structures import KronSpec


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
    specs = {n.name: node_spec(n, shapes) for n in structured_nodes(canonical)}
    groups = {
        name: found
        for name, spec in specs.items()
        if isinstance(spec, KronSpec) and len(found := best_groups(spec)) < len(spec.in_shape)
    }
    if not groups:
        return canonical
    model = copy_model(canonical)
    known = initializers(model.graph)
    for node in structured_nodes(model):
        spec = specs[node.name]
        if node.name not in groups or not isinstance(spec, KronSpec):
            continue
        merged = merged_spec(spec, groups[node.name])
        *factors, bias = node.input[1:]
        held = [Weight.known(name, to_array(known[name])) for name in factors]
        weights = merge_factors(Emitter(node.name), held, groups[node.name])
        for weight in weights:
            if weight.array is not None:
                known[weight.name] = tensor(weight.name, weight.array)
        del node.input[1:]
        node.input.extend([*(w.name for w in weights), bias])
        for attribute in [a for a in node.attribute if a.name in ("in_shape", "out_shape")]:
            node.attribute.remove(attribute)
        sides = {"in_shape": merged.in_shape, "out_shape": merged.out_shape}
        node.attribute.extend(helper.make_attribute(k, list(v)) for k, v in sides.items())
    set_initializers(model.graph, known.values())
    prune(model.graph)
    return model
