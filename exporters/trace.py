"""nn.Module → canonical ONNX graph: the only place of the exporters that knows PyTorch."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, helper
from torch import nn

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
    initializers,
    prune,
    rename_values,
    set_initializers,
    strip_metadata,
    tensor,
    to_array,
)
from sepdeploy.layers import graph_nodes
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
    graph.ir_version = IR_VERSION
    clean(graph)
    _name_constants(graph, model)
    _name_nodes(graph, scopes)
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
    with graph_nodes(), _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim(BATCH)},),
                custom_translation_table=_translations(ops),
                verbose=False,
            )
        except Exception as error:
            raise _explain(error) from error
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
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _explain(error: BaseException) -> BadInput:
    """One line from the exporter's nested report: the op, the module it came from, a way out."""
    chain = []
    seen: BaseException | None = error
    while seen is not None and len(chain) < 10:
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    text = "\n".join(str(e) for e in chain)
    op = re.search(
        r"(?:operator|function for|No decompositions registered for)[^a-z]*((?:\w+[.:]+)+\w+)", text
    )
    module = re.search(r"(?:nn_module_stack|File \"(?P<file>[^\"]+)\", line (?P<line>\d+))", text)
    where = ""
    if module and module.group("file"):
        where = f" ({module.group('file')}:{module.group('line')})"
    if op:
        return BadInput(
            f"operator {op.group(1)} cannot be exported{where}",
            hint="replace it in the module's forward by standard layers or tensor operations",
        )
    first = next((line for line in str(chain[-1]).splitlines() if line.strip()), "no details")
    return BadInput(
        f"the model cannot be traced: {type(chain[-1]).__name__}: {first[:200]}",
        hint="forward must not branch on tensor values or on the batch size",
    )


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


def _name_constants(model: ModelProto, source: nn.Module) -> None:
    """Call constants as in the state_dict, also those the exporter renamed while folding."""
    graph = model.graph
    known = {
        name: value.detach().cpu().numpy()
        for name, value in (*source.named_parameters(), *source.named_buffers())
    }
    names: dict[str, str] = {}
    taken = {t.name for t in graph.initializer if t.name in known}
    for item in graph.initializer:
        if item.name in known:
            names[item.name] = item.name.removeprefix(NET)
            continue
        array = to_array(item)
        for name, value in known.items():
            if name not in taken and value.size == array.size and _same(array, value):
                names[item.name] = name.removeprefix(NET)
                taken.add(name)
                break
    rename_values(graph, names)


def _same(array: Any, value: Any) -> bool:
    if array.dtype != value.dtype:
        return False
    if array.shape == value.shape:
        return bool(np.array_equal(array, value))
    turned = array.ndim == 2 and array.shape == value.shape[::-1]
    return bool(turned and np.array_equal(array, value.T))


def _name_nodes(model: ModelProto, scopes: dict[str, tuple[str, str]]) -> None:
    """Name nodes by module path: the one that carries the weights exactly so, others "path/Op"."""
    graph = model.graph
    constants = set(initializers(graph))
    used: set[str] = set()
    values: dict[str, str] = {}
    fixed = {INPUT, OUTPUT, *constants}
    for node in graph.node:
        path = scopes.get(node.output[0], ("", ""))[0]
        weighted = node.domain == DOMAIN or (
            node.op_type in WEIGHTED and any(i in constants for i in node.input)
        )
        stem = path if weighted and path else "/".join(filter(None, (path, node.op_type)))
        node.name = _unused(stem, used)
        used.add(node.name)
        for i, output in enumerate(node.output):
            if output and output not in fixed:
                values[output] = f"{node.name}:{i}" if i else node.name
    shapes = _shape_names(graph, values, constants)
    rename_values(graph, values | shapes)


def _unused(stem: str, used: set[str]) -> str:
    name, count = stem, 1
    while name in used:
        name, count = f"{stem}_{count}", count + 1
    return name


def _shape_names(
    graph: onnx.GraphProto, values: dict[str, str], constants: set[str]
) -> dict[str, str]:
    """Constants that the exporter numbered get the name of the first node that reads them."""
    names: dict[str, str] = {}
    for node in graph.node:
        for i, name in enumerate(node.input):
            numbered = name in constants and re.fullmatch(r"val_\d+|.*/shape|_to_copy.*", name)
            if numbered and name not in names:
                names[name] = f"{node.name}:const{i}"
    return names


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
