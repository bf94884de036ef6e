"""Names of a traced graph: nodes after the modules they came from, weights as in the state_dict."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from sepdeploy.exporters.domain import DOMAIN
from sepdeploy.exporters.families import family_of_op
from sepdeploy.exporters.onnx_graph.graph import (
    Array,
    attributes,
    initializers,
    prune,
    rename_values,
    tensor,
    to_array,
)
from sepdeploy.exporters.onnx_graph.weights import Weights, hold, is_held, is_large

NET = "net."  # the user's network inside a Model; names are relative to it
WEIGHTED = {"Gemm", "MatMul", "Conv", "ConvTranspose"}
NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"
SCOPES = "pkg.torch.onnx.name_scopes"

Scopes = dict[str, tuple[str, str]]


def read_scopes(model: ModelProto) -> Scopes:
    """Module path and op for the first output of each node, from the exporter's notes."""
    found = {}
    for node in model.graph.node:
        notes = {p.key: p.value for p in node.metadata_props}
        names = re.findall(r"'([^']*)'", notes.get(SCOPES, ""))
        path = names[-2] if len(names) >= 2 else ""
        found[node.output[0]] = (path.removeprefix(NET), node.op_type)
    return found


def return_to_owners(model: ModelProto, own: Mapping[str, Array], scopes: Scopes) -> None:
    """Give a layer that was merged with the norm behind it back to the layer, in ``scopes``.

    The exporter notes the norm for both, while the weights keep the layer's name.
    """
    for node in model.graph.node:
        if node.op_type not in WEIGHTED or len(node.input) < 2 or node.input[1] not in own:
            continue
        owner = node.input[1].rpartition(".")[0].removeprefix(NET)
        path = path_of(node, scopes)
        kept = [v.shape for n, v in own.items() if n.startswith(f"{NET}{path}.")]
        shape = own[node.input[1]].shape
        if owner and owner != path and shape not in kept and shape[::-1] not in kept:
            scopes[node.output[0]] = (owner, node.op_type)


def path_of(node: NodeProto, scopes: Scopes) -> str:
    """Path of the module that a node came from, "" for the model itself."""
    path = scopes.get(node.output[0], ("", ""))[0]
    return "" if path == NO_MODULE else path


def name_batch(model: ModelProto, batch: str) -> None:
    """Call the open dimension ``batch``, also within expressions such as "3*batch"."""
    graph = model.graph
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for info in (*graph.input, *graph.output, *graph.value_info):
        for dim in info.type.tensor_type.shape.dim:
            if symbol and dim.HasField("dim_param"):
                dim.dim_param = re.sub(rf"\b{re.escape(symbol)}\b", batch, dim.dim_param)


def name_weights(
    model: ModelProto, own: Mapping[str, Array], scopes: Scopes, weights: Weights
) -> None:
    """Name every weight as its parameter, one constant per parameter.

    The exporter keeps one of several equal constants (all zero biases, say) and invents names for
    what it folded; a layer's weights get their own constants and names back.

    Args:
        model: The graph, large constants held.
        own: Parameters and buffers of the model by name.
        scopes: From ``read_scopes``.
        weights: The held numbers; renamed along.
    """
    graph = model.graph
    known = initializers(graph)
    for node in graph.node:
        path = path_of(node, scopes)
        if not path:
            continue
        prefix = f"{path}." if path == NET[:-1] else f"{NET}{path}."
        below = {name: value for name, value in own.items() if name.startswith(prefix)}
        for i, name in enumerate(node.input):
            if name not in known or name in below:
                continue
            array = _numbers(known[name], weights)
            match = next((n for n, value in below.items() if _same(array, value)), None)
            if match is None:
                continue
            if match not in known:
                known[match] = _constant(match, array, known[name], weights)
                graph.initializer.append(known[match])
            elif not np.array_equal(_numbers(known[match], weights), array):
                continue  # the same weights read in another orientation
            node.input[i] = match
    prune(graph)


def rename_constants(graph_model: ModelProto, names: Mapping[str, str], weights: Weights) -> None:
    """Rename values and, along with them, held numbers."""
    rename_values(graph_model.graph, names)
    for old, new in names.items():
        if old in weights and new != old:
            weights[new] = weights.pop(old)


def _numbers(item: TensorProto, weights: Weights) -> Array:
    return weights[item.name] if is_held(item) else to_array(item)


def _constant(name: str, array: Array, like: TensorProto, weights: Weights) -> TensorProto:
    return hold(name, array, weights) if is_large(like) else tensor(name, array)


def _same(array: Array, value: Array) -> bool:
    if array.dtype != value.dtype or array.size != value.size:
        return False
    if array.shape == value.shape and (
        np.may_share_memory(array, value) or np.array_equal(array, value)
    ):
        return True
    turned = array.ndim == 2 and array.shape == value.shape[::-1]
    return bool(turned and np.array_equal(array, value.T))


def name_nodes(
    model: ModelProto, scopes: Scopes, parameters: Container[str], weights: Weights
) -> None:
    """Name nodes by module path: the one that carries the weights exactly so, others "path/Op".

    A value is named after its node, a constant that is no parameter after the first node that
    reads it. The graph's own inputs and outputs keep their names.
    """
    graph = model.graph
    constants = set(initializers(graph))
    fixed = {v.name for v in (*graph.input, *graph.output)}
    used: set[str] = set()
    names: dict[str, str] = {}
    for node in graph.node:
        path = path_of(node, scopes)
        exact = path and carries_weights(node, constants)
        node.name = _unused(path if exact else "/".join(filter(None, (path, node.op_type))), used)
        used.add(node.name)
        family = family_of_op(node.op_type) if node.domain == DOMAIN else None
        derived = family.derived(attributes(node)) if family else {}
        for i, name in enumerate(node.input):
            if name in constants and name not in parameters and name not in names:
                role = derived.get(i)
                names[name] = f"{node.name}.{role}" if role else f"{node.name}:const{i}"
        for i, name in enumerate(node.output):
            if name and name not in fixed:
                names[name] = f"{node.name}:{i}" if i else node.name
    rename_constants(model, names, weights)


def carries_weights(node: NodeProto, constants: Container[str]) -> bool:
    """Whether a node is a layer: a structured one, or a product with constants."""
    return node.domain == DOMAIN or (
        node.op_type in WEIGHTED and any(name in constants for name in node.input)
    )


def _unused(stem: str, used: set[str]) -> str:
    name, count = stem, 1
    while name in used:
        name, count = f"{stem}_{count}", count + 1
    return name
