"""nn.Module → canonical ONNX graph: the only place of the exporters that knows PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from onnx import ModelProto, helper

from sepdeploy.errors import REPORT, BadInput, Missing
from sepdeploy.exporters.capture import translations
from sepdeploy.exporters.capture.diagnosis import REPLACE, untraceable, untranslatable
from sepdeploy.exporters.capture.naming import (
    NET,
    Scopes,
    name_batch,
    name_nodes,
    name_weights,
    path_of,
    read_scopes,
    rename_constants,
    return_to_owners,
)
from sepdeploy.exporters.capture.torch_exporter import exact_rules, forget, quiet, read_once
from sepdeploy.exporters.domain import (
    DOMAIN,
    DOMAIN_VERSION,
    IR_VERSION,
    OPSET,
    constant_shapes,
    ensure_domain,
    known_op,
    read_structure,
    register_schemas,
    structured_nodes,
)
from sepdeploy.exporters.families import FAMILIES
from sepdeploy.exporters.onnx_graph.batch import check_samples_apart
from sepdeploy.exporters.onnx_graph.canonical import clean, unknown_domains
from sepdeploy.exporters.onnx_graph.folding import NEVER_FOLDED
from sepdeploy.exporters.onnx_graph.graph import (
    attributes,
    initializers,
    prune,
    set_initializers,
    strip_metadata,
    tensor,
)
from sepdeploy.exporters.onnx_graph.weights import HELD_BYTES, Weights, settle
from sepdeploy.layers import graph_nodes, is_structured
from sepdeploy.layers.graph import read_spec
from sepdeploy.models import Model

INPUT, OUTPUT, BATCH = "input", "logits", "batch"


def trace(model: Model) -> ModelProto:
    """Trace a model into its canonical graph.

    Args:
        model: In evaluation mode. Its input spec gives the shape; the batch stays dynamic.

    Returns:
        Opset 20, IR 10, input "input" (batch, *shape), output "logits" (batch, classes), one
        ``ai.sepdeploy`` node per structured layer. Nodes are named by module paths, constants
        by state_dict names. The same model gives the same bytes in every process.

    Raises:
        BadInput: The model is in training mode, uses something that cannot be exported, or mixes
            the samples of a batch.
        Missing: The exporter's own packages are not installed.
    """
    if model.training:
        raise BadInput(
            "the model is in training mode", hint="call model.eval() before exporting it"
        )
    graph, weights = _export(model)
    scopes = read_scopes(graph)
    _check_operators(graph, scopes)
    strip_metadata(graph)
    name_batch(graph, BATCH)
    graph.ir_version = IR_VERSION
    clean(graph, weights)
    own = {
        name: value.detach().cpu().numpy()
        for name, value in (*model.named_parameters(), *model.named_buffers())
    }
    return_to_owners(graph, own, scopes)
    name_weights(graph, own, scopes, weights)
    short = {name: _short(name, model) for name in own}
    kept = {t.name for t in graph.graph.initializer}
    rename_constants(graph, {n: s for n, s in short.items() if n in kept}, weights)
    name_nodes(graph, scopes, set(short.values()), weights)
    _complete_structured(graph)
    check_samples_apart(graph)
    ensure_domain(graph)
    prune(graph.graph)
    set_initializers(graph.graph, sorted(graph.graph.initializer, key=_read_order(graph)))
    graph.graph.name = "sepdeploy"
    settle(graph, weights)
    return graph


def _export(model: Model) -> tuple[ModelProto, Weights]:
    """The exporter's graph, large constants held: they still are the model's own memory."""
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
    with graph_nodes(), exact_rules(), read_once(), quiet(), torch.no_grad():
        try:
            exported = torch.export.export(model, (example,), dynamic_shapes=shapes, strict=False)
        except Exception as error:
            raise untraceable(error) from error
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
            raise untranslatable(error, exported.graph) from error
    if program is None:
        raise BadInput("the PyTorch exporter returned nothing", hint=REPORT)
    weights = _take_weights(program.model)
    proto = program.model_proto
    forget()
    return proto, weights


def _take_weights(model: Any) -> Weights:
    """Take the numbers of large constants out of the exporter's model, without copying them."""
    import onnx_ir

    weights: Weights = {}
    for name, value in model.graph.initializers.items():
        held = value.const_value
        if held is None or held.nbytes <= HELD_BYTES:
            continue
        weights[name] = held.numpy()
        value.const_value = onnx_ir.ExternalTensor(
            "held", None, None, held.dtype, shape=held.shape, name=name
        )
    return weights


def _translations(ops: Any) -> dict[Any, Any]:
    """What to write for an operator instead of what the exporter would."""
    return _structured(ops) | _standard()


def _standard() -> dict[Any, Any]:
    from onnxscript import opset20 as ops
    from onnxscript.function_libs.torch_lib.ops import core, nn

    aten = torch.ops.aten

    def attention(
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: Any = None,
        enable_gqa: bool = False,
    ) -> Any:
        return translations.attention(
            ops, query, key, value, attn_mask, is_causal, scale, enable_gqa
        )

    def average(x: Any, output_size: Any) -> Any:
        return translations.adaptive_average(ops, x, output_size)

    def maximum(x: Any, output_size: Any) -> Any:
        return translations.adaptive_maximum(ops, x, output_size)

    def nearest(x: Any, output_size: Any, scale_factors: Any) -> Any:
        return translations.resize(ops, x, output_size, scale_factors, "nearest")

    def linear(x: Any, output_size: Any, align_corners: bool, scale_factors: Any) -> Any:
        return translations.resize(ops, x, output_size, scale_factors, "linear", align_corners)

    def average_pool(
        x: Any,
        kernel_size: Any,
        stride: Any = (),
        padding: Any = (0, 0),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: Any = None,
    ) -> Any:
        if divisor_override is None:
            return nn.aten_avg_pool2d(x, kernel_size, stride, padding, ceil_mode, count_include_pad)
        if ceil_mode or len(x.shape) != 4:
            raise NotImplementedError("divisor_override together with ceil_mode")
        return translations.average_pool(ops, x, kernel_size, stride, padding, divisor_override)

    def instance_norm(
        x: Any, weight: Any, bias: Any, mean: Any, variance: Any, own: bool, *rest: Any
    ) -> Any:
        if own:
            return core.aten_instance_norm(x, weight, bias, mean, variance, own, *rest)
        return translations.running_norm(ops, x, weight, bias, mean, variance, rest[1])

    return {
        aten.avg_pool2d.default: average_pool,
        aten.instance_norm.default: instance_norm,
        aten.scaled_dot_product_attention.default: attention,
        aten.adaptive_avg_pool2d.default: average,
        aten.adaptive_max_pool2d.default: maximum,
        aten.upsample_nearest2d.vec: nearest,
        aten.upsample_bilinear2d.vec: linear,
    }


def _structured(ops: Any) -> dict[Any, Any]:
    def node(x: Any, factors: Any, bias: Any, spec: str) -> Any:
        found = read_spec(spec)
        family = FAMILIES[found.structure]
        make = getattr(ops, family.op_type)
        return make(x, *factors, *_given(bias), **family.attributes(found))

    return {torch.ops.sepdeploy.structured_linear.default: node}


def _given(bias: Any) -> list[Any]:
    return [] if bias is None else [bias]


def _check_operators(model: ModelProto, scopes: Scopes) -> None:
    for node in unknown_domains(model):
        raise BadInput(
            f"operator {node.domain}.{node.op_type} in {path_of(node, scopes) or 'the model'} "
            "has no ONNX form",
            hint=REPLACE,
        )
    for node in model.graph.node:
        if node.op_type in NEVER_FOLDED:
            raise BadInput(
                f"operator {node.op_type} in {path_of(node, scopes) or 'the model'} gives other "
                "numbers on every run",
                hint="draw random numbers in training only: if self.training: ...",
            )


def _short(name: str, source: Model) -> str:
    """A parameter's name inside the network; a network that is one layer keeps its name."""
    single = is_structured(source.net) or not any(True for _ in source.net.children())
    return name if single else name.removeprefix(NET)


def _complete_structured(model: ModelProto) -> None:
    """Give every structured node a bias and its constants the layer's names; check its shapes."""
    known = initializers(model.graph)
    for node in structured_nodes(model):
        shapes = constant_shapes(model)
        held = [shapes.get(n, ()) for n in node.input[1:]]
        family = known_op(node.op_type, node.name)
        spec = read_structure(family, node.name, attributes(node), held, bias=False)
        if len(node.input) == 1 + len(spec.factor_shapes):
            name = f"{node.name}.bias"
            kind = helper.tensor_dtype_to_np_dtype(known[node.input[1]].data_type)
            model.graph.initializer.append(tensor(name, np.zeros(spec.out_features, kind)))
            node.input.append(name)


def _read_order(model: ModelProto) -> Any:
    order: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            order.setdefault(name, len(order))
    return lambda item: order.get(item.name, len(order))
