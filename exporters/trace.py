"""nn.Module → canonical ONNX graph: the only place of the exporters that knows PyTorch."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import warnings
from collections.abc import Container, Iterator
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, helper

from sepdeploy.errors import BadInput, Missing
from sepdeploy.exporters.canonical import clean, unknown_domains
from sepdeploy.exporters.domain import (
    DOMAIN,
    DOMAIN_VERSION,
    IR_VERSION,
    OPSET,
    constant_shapes,
    ensure_domain,
    node_spec,
    register_schemas,
    structured_nodes,
)
from sepdeploy.exporters.graph import (
    Array,
    initializers,
    prune,
    rename_values,
    set_initializers,
    strip_metadata,
    tensor,
    to_array,
)
from sepdeploy.layers import graph_nodes, is_structured
from sepdeploy.models import Model

INPUT, OUTPUT, BATCH = "input", "logits", "batch"
NET = "net."  # the user's network inside a Model; names are relative to it
WEIGHTED = {"Gemm", "MatMul", "Conv", "ConvTranspose"}
SCOPES = "pkg.torch.onnx.name_scopes"


def trace(model: Model) -> ModelProto:
    """Trace a model into its canonical graph.

    Args:
        model: In evaluation mode. Its input spec gives the shape; the batch stays dynamic.

    Returns:
        Opset 20, IR 10, input "input" (batch, *shape), output "logits" (batch, classes), one
        ``ai.sepdeploy`` node per structured layer. Nodes are named by module paths, constants
        by state_dict names. The same model gives the same bytes in every process.

    Raises:
        BadInput: The model is in training mode, or uses something that cannot be exported.
        Missing: The exporter's own packages are not installed.
    """
    if model.training:
        raise BadInput(
            "the model is in training mode", hint="call model.eval() before exporting it"
        )
    graph = _export(model)
    scopes = _scopes(graph)
    _check_domains(graph, scopes)
    strip_metadata(graph)
    _name_batch(graph)
    graph.ir_version = IR_VERSION
    clean(graph)
    weights = _name_weights(graph, model, scopes)
    _name_nodes(graph, scopes, weights)
    _complete_structured(graph)
    ensure_domain(graph)
    prune(graph.graph)
    set_initializers(graph.graph, sorted(graph.graph.initializer, key=_read_order(graph)))
    graph.graph.name = "sepdeploy"
    return graph


def _export(model: Model) -> ModelProto:
    try:
        from onnxscript.values import Opset
    except ImportError as error:
        raise Missing(
            "exporting needs onnxscript", hint="pip install 'sepdeploy[train]'"
        ) from error
    register_schemas()
    ops = Opset(DOMAIN, DOMAIN_VERSION)
    parameter = next(model.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    # Two different samples: a batch of one would invite the tracer to fix its size.
    example = torch.rand((2, *model.input.shape), device=device)
    shapes = ({0: torch.export.Dim(BATCH)},)
    with graph_nodes(), _quiet(), torch.no_grad():
        try:
            exported = torch.export.export(model, (example,), dynamic_shapes=shapes, strict=False)
        except Exception as error:
            raise _untraceable(error) from error
        try:
            program = torch.onnx.export(
                exported,
                (),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                custom_translation_table=_translations(ops),
                verbose=False,
            )
        except Exception as error:
            raise _untranslatable(error, exported.graph) from error
    if program is None:
        raise BadInput("the PyTorch exporter returned nothing")
    proto = onnx.ModelProto()
    proto.CopyFrom(program.model_proto)
    return proto


def _translations(ops: Any) -> dict[Any, Any]:
    def kron(x: Any, factors: Any, bias: Any, in_shape: Any, out_shape: Any, terms: Any) -> Any:
        shapes = {"in_shape": list(in_shape), "out_shape": list(out_shape), "terms": terms}
        return ops.KronLinear(x, *factors, *_given(bias), **shapes)

    def lowrank(x: Any, U: Any, V: Any, bias: Any) -> Any:
        return ops.LowRankLinear(x, U, V, *_given(bias))

    return {
        torch.ops.sepdeploy.kron_linear.default: kron,
        torch.ops.sepdeploy.lowrank_linear.default: lowrank,
    }


def _given(bias: Any) -> list[Any]:
    return [] if bias is None else [bias]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notices (missing torchvision, progress lines) off the user's screen."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        sink = io.StringIO()
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(sink),
            contextlib.redirect_stderr(sink),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(20):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _untraceable(error: BaseException) -> BadInput:
    """One line from a failed capture: the root's first line and the user's own source line."""
    root = list(_causes(error))[-1]
    text = "\n".join(str(e) for e in _causes(error))
    first = next((line.strip() for line in str(root).splitlines() if line.strip()), "no details")
    places = re.findall(
        r"(?:File \"|\()([^\"():\n]+\.py)(?:\", line |:)(\d+)[^\n]* in forward", text
    )
    own = [f"{file}:{line}" for file, line in places if f"{os.sep}torch{os.sep}" not in file]
    where = f" (at {own[-1]})" if own else ""
    return BadInput(
        f"the model cannot be traced{where}: {type(root).__name__}: {first[:200]}",
        hint="forward must not branch on the values of a tensor or fix the batch size",
    )


def _untranslatable(error: BaseException, graph: torch.fx.Graph) -> BadInput:
    """One line from a failed translation: the operator and the module it came from."""
    text = "\n".join(str(e) for e in _causes(error))
    found = re.search(r"OpOverload\(op='([\w.:]+)'", text) or re.search(
        r"torch\.ops\.([\w.]+)", text
    )
    if found is None:
        root = list(_causes(error))[-1]
        first = next(
            (line.strip() for line in str(root).splitlines() if line.strip()), "no details"
        )
        return BadInput(
            f"the model cannot be exported: {type(root).__name__}: {first[:200]}",
            hint="replace unusual operations by standard layers",
        )
    op = found.group(1)
    short = op.split(".")[1] if "." in op else op
    path = _module_of(short, graph)
    return BadInput(
        f"operator {op}" + (f" in module '{path}'" if path else "") + " has no ONNX form",
        hint="replace it in the module's forward by standard layers or tensor operations",
    )


def _module_of(op: str, graph: torch.fx.Graph) -> str:
    """Path of the first module that calls an operator; a decomposition may have shortened it."""
    for node in graph.nodes:
        name = str(node.target).split(".")[1:2]
        if node.op == "call_function" and name and (op in name[0] or name[0] in op):
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            if stack:
                return str(stack[-1][0]).removeprefix(NET)
    return ""


def _scopes(model: ModelProto) -> dict[str, tuple[str, str]]:
    """Module path and op for the first output of each node, from the exporter's notes."""
    found = {}
    for node in model.graph.node:
        notes = {p.key: p.value for p in node.metadata_props}
        names = re.findall(r"'([^']*)'", notes.get(SCOPES, ""))
        path = names[-2] if len(names) >= 2 else ""
        found[node.output[0]] = (path.removeprefix(NET), node.op_type)
    return found


def _check_domains(model: ModelProto, scopes: dict[str, tuple[str, str]]) -> None:
    for node in unknown_domains(model):
        path = scopes.get(node.output[0], ("", ""))[0] or "the model"
        raise BadInput(
            f"operator {node.domain}.{node.op_type} in {path} has no ONNX form",
            hint="replace it in the module's forward by standard layers or tensor operations",
        )


def _name_weights(model: ModelProto, source: Model, scopes: dict[str, tuple[str, str]]) -> set[str]:
    """Name every weight as in the state_dict of the network, one constant per parameter.

    The exporter keeps one of several equal constants (all zero biases, say) and invents names for
    what it folded; a layer's weights get their own constants and names back.
    """
    graph = model.graph
    own = {
        name: value.detach().cpu().numpy()
        for name, value in (*source.named_parameters(), *source.named_buffers())
    }
    known = initializers(graph)
    for node in graph.node:
        path = scopes.get(node.output[0], ("", ""))[0]
        if not (path and _carries_weights(node, known)):
            continue
        prefix = f"{path}." if path == NET[:-1] else f"{NET}{path}."
        below = {name: value for name, value in own.items() if name.startswith(prefix)}
        for i, name in enumerate(node.input):
            if name not in known or name in below:
                continue
            array = to_array(known[name])
            match = next((n for n, value in below.items() if _same(array, value)), None)
            if match is not None:
                if match not in known:
                    known[match] = tensor(match, array)
                    graph.initializer.append(known[match])
                node.input[i] = match
    prune(graph)
    short = {name: _short(name, source) for name in own}
    rename_values(graph, {t.name: short[t.name] for t in graph.initializer if t.name in own})
    return set(short.values())


def _short(name: str, source: Model) -> str:
    """A parameter's name inside the network; a network that is one layer keeps its name."""
    single = is_structured(source.net) or not any(True for _ in source.net.children())
    return name if single else name.removeprefix(NET)


def _name_batch(model: ModelProto) -> None:
    """Call the open dimension "batch", also within expressions such as "3*batch"."""
    graph = model.graph
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for info in (*graph.input, *graph.output, *graph.value_info):
        for dim in info.type.tensor_type.shape.dim:
            if symbol and dim.HasField("dim_param"):
                dim.dim_param = re.sub(rf"\b{re.escape(symbol)}\b", BATCH, dim.dim_param)


def _carries_weights(node: NodeProto, constants: Container[str]) -> bool:
    return node.domain == DOMAIN or (
        node.op_type in WEIGHTED and any(name in constants for name in node.input)
    )


def _same(array: Array, value: Array) -> bool:
    if array.dtype != value.dtype or array.size != value.size:
        return False
    if array.shape == value.shape:
        return bool(np.array_equal(array, value))
    turned = array.ndim == 2 and array.shape == value.shape[::-1]
    return bool(turned and np.array_equal(array, value.T))


def _name_nodes(model: ModelProto, scopes: dict[str, tuple[str, str]], weights: set[str]) -> None:
    """Name nodes by module path: the one that carries the weights exactly so, others "path/Op".

    A value is named after its node, a constant that is no parameter after the first node that
    reads it.
    """
    graph = model.graph
    constants = set(initializers(graph))
    used: set[str] = set()
    names: dict[str, str] = {}
    for node in graph.node:
        path = scopes.get(node.output[0], ("", ""))[0]
        exact = path and _carries_weights(node, constants)
        node.name = _unused(path if exact else "/".join(filter(None, (path, node.op_type))), used)
        used.add(node.name)
        for i, name in enumerate(node.input):
            if name in constants and name not in weights and name not in names:
                folded = node.op_type == "LowRankLinear" and i == 2
                names[name] = f"{node.name}.V" if folded else f"{node.name}:const{i}"
        for i, name in enumerate(node.output):
            if name and name not in (INPUT, OUTPUT):
                names[name] = f"{node.name}:{i}" if i else node.name
    rename_values(graph, names)


def _unused(stem: str, used: set[str]) -> str:
    name, count = stem, 1
    while name in used:
        name, count = f"{stem}_{count}", count + 1
    return name


def _complete_structured(model: ModelProto) -> None:
    """Give every structured node a bias and its constants the layer's names; check its shapes."""
    for node in structured_nodes(model):
        _add_bias(model, node)
        node_spec(node, constant_shapes(model))


def _add_bias(model: ModelProto, node: NodeProto) -> None:
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    known = initializers(model.graph)
    if node.op_type == "KronLinear":
        expected = 2 + len(attrs["in_shape"])
        width = int(np.prod(attrs["out_shape"]))
    else:
        expected, width = 4, known[node.input[2]].dims[0]
    if len(node.input) < expected:
        name = f"{node.name}.bias"
        kind = known[node.input[1]].data_type
        zeros = np.zeros(width, helper.tensor_dtype_to_np_dtype(kind))
        model.graph.initializer.append(tensor(name, zeros))
        node.input.append(name)


def _read_order(model: ModelProto) -> Any:
    order: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            order.setdefault(name, len(order))
    return lambda item: order.get(item.name, len(order))
