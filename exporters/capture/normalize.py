"""A foreign ONNX graph in canonical form: our opset, one input, names of its own kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto, checker, inliner, version_converter

from sepdeploy.errors import GRAPH, BadInput, unknown_name
from sepdeploy.exporters.capture.old_forms import computes_in_half, renew, widen
from sepdeploy.exporters.capture.onnx_source import DAMAGED
from sepdeploy.exporters.domain import (
    DOMAIN,
    IR_VERSION,
    OPSET,
    ensure_domain,
    known_op,
    register_schemas,
)
from sepdeploy.exporters.onnx_graph.batch import check_samples_apart
from sepdeploy.exporters.onnx_graph.canonical import clean
from sepdeploy.exporters.onnx_graph.folding import NEVER_FOLDED
from sepdeploy.exporters.onnx_graph.graph import prune, sort_nodes, strip_metadata, to_array
from sepdeploy.exporters.onnx_graph.weights import Weights, as_inputs, from_inputs, settle

MIN_OPSET = 7
WEIGHTS_APART = 4  # of the file format, from which on a weight need not be an input
STANDARD = ("", "ai.onnx")


def normalize(
    light: ModelProto,
    weights: Weights,
    *,
    where: str,
    notify: Callable[[str], None],
    outputs: Sequence[str] = (),
) -> ModelProto:
    """Bring a foreign model into canonical form.

    Functions are inlined, the opset is converted, constants are folded, the first dimension of
    the input is called "batch" where it is open. All outputs are kept, in their order.

    Args:
        light: The model as ``onnx_source.read_onnx`` gives it.
        weights: Its held numbers.
        where: Starts every error message.
        notify: Told what is kept.
        outputs: The only ones to keep; none: all.

    Returns:
        A complete model of one input, weights included.

    Raises:
        BadInput: Not one input, an opset that is too old, an operator of another domain, or a
            graph that is not valid ONNX or mixes the samples of a batch.
    """
    model = _inlined(light, where)
    strip_metadata(model)
    del model.graph.value_info[:]  # inferred again, in our names and without its errors
    _check_operators(model, where)
    _one_input(model, where)
    renew(model, max(o.version for o in model.opset_import if o.domain in STANDARD))
    _check_graph(model, where)
    if computes_in_half(model):
        widen(model, weights)
    _keep_outputs(model, where, notify, outputs)
    _name_batch(model)
    if _converted(model):
        clean(model, weights)
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    try:
        check_samples_apart(model)
    except BadInput as error:
        raise BadInput(f"{where}: {error.message}", hint=error.hint) from error
    ensure_domain(model)
    settle(model, weights)
    return model


def input_shape(model: ModelProto, where: str) -> tuple[int, ...]:
    """Shape of one sample.

    Raises:
        BadInput: A dimension besides the batch is open.
    """
    info = model.graph.input[0]
    dims = info.type.tensor_type.shape.dim
    shape = tuple(d.dim_value if d.HasField("dim_value") else 0 for d in dims)
    said = [d.dim_param or d.dim_value or "?" for d in dims]
    if len(shape) < 2:
        raise BadInput(
            f"{where}: input '{info.name}' has shape {said}: no dimension stands beside the batch",
            hint="export it with an input of shape (N, features) or (N, channels, height, width)",
        )
    if any(n < 1 for n in shape[1:]):
        raise BadInput(
            f"{where}: input '{info.name}' has shape {said}; only the batch, its first dimension, "
            "may be open",
            hint="fix the sizes: python -m onnxruntime.tools.make_dynamic_shape_fixed",
        )
    return shape[1:]


def fixed_batch(model: ModelProto) -> int | None:
    """The batch size that a model insists on, None where any will do."""
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    return int(first.dim_value) if first.HasField("dim_value") and first.dim_value > 0 else None


def _inlined(light: ModelProto, where: str) -> ModelProto:
    foreign = [f for f in light.functions if f.domain != DOMAIN]
    model = as_inputs(light)
    if foreign:
        own = sorted({(f.domain, f.name) for f in light.functions if f.domain == DOMAIN})
        try:
            model = inliner.inline_selected_functions(model, own, exclude=True)
        except (ValueError, RuntimeError, checker.ValidationError) as error:
            raise BadInput(
                f"{where}: its functions cannot be inlined: {_line(error)}", hint=GRAPH
            ) from error
    del model.functions[:]  # of our own domain they are only a fallback
    from_inputs(model, light)
    return model


def _check_operators(model: ModelProto, where: str) -> None:
    for node in model.graph.node:
        if node.domain == DOMAIN:
            known_op(node.op_type, node.name, where)
        elif node.domain not in STANDARD:
            raise BadInput(
                f"{where}: operator {node.domain}.{node.op_type} (node '{node.name}') is no "
                "standard ONNX",
                hint="export the model without runtime-specific optimisations",
            )
        elif node.op_type in NEVER_FOLDED or _drops(model, node):
            raise BadInput(
                f"{where}: operator {node.op_type} (node '{node.name}') gives other numbers on "
                "every run",
                hint="export the network in evaluation mode",
            )
    versions = [o.version for o in model.opset_import if o.domain in STANDARD]
    if not versions or min(versions) < MIN_OPSET:
        raise BadInput(
            f"{where}: opset {min(versions, default=0)} is too old, at least {MIN_OPSET} is needed",
            hint="export the model again with opset 20",
        )


def _drops(model: ModelProto, node: NodeProto) -> bool:
    """Whether a node is a Dropout in training mode."""
    if node.op_type != "Dropout" or len(node.input) < 3:
        return False
    tensors = {t.name: t for t in model.graph.initializer}
    tensors |= {n.output[0]: a.t for n in model.graph.node for a in n.attribute if a.HasField("t")}
    mode = tensors.get(node.input[2])
    return mode is not None and bool(to_array(mode).any())


def _check_graph(model: ModelProto, where: str) -> None:
    """Sort the nodes; refuse what is no valid graph: the passes count on inputs that are there.

    What ONNX Runtime does without is not asked for: order, a name of the graph, shapes of outputs,
    the rules of another version of the file format.
    """
    try:
        sort_nodes(model.graph)
    except ValueError as error:
        raise BadInput(f"{where}: {error}", hint=DAMAGED) from error
    register_schemas()
    copy = as_inputs(model)
    copy.ir_version = IR_VERSION
    copy.graph.name = copy.graph.name or "graph"
    for info in (*copy.graph.input, *copy.graph.output):
        if info.type.HasField("tensor_type"):
            info.type.tensor_type.shape.SetInParent()
    try:
        checker.check_model(copy)
    except (checker.ValidationError, UnicodeDecodeError) as error:
        said = " ".join(str(error).partition("==>")[0].split())
        raise BadInput(f"{where} is not valid ONNX: {said}", hint=DAMAGED) from error


def _one_input(model: ModelProto, where: str) -> None:
    constants = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(i.name for i in inputs[:5])
        raise BadInput(
            f"{where}: expected one input, found {len(inputs)} ({names})",
            hint="export the network with a single input",
        )
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    # Version 3 asks every weight to be an input as well, which ours never are.
    model.ir_version = max(model.ir_version, WEIGHTS_APART)


def _keep_outputs(
    model: ModelProto, where: str, notify: Callable[[str], None], wanted: Sequence[str]
) -> None:
    known = [o.name for o in model.graph.output]
    for name in wanted:
        if name not in known:
            raise unknown_name(f"output of {where}", name, known)
    if len(known) > 1 and not wanted:
        notify(f"{where} has {len(known)} outputs, all are kept: {', '.join(known)}")
    kept = [o for o in model.graph.output if not wanted or o.name in wanted]
    if len(kept) < len(known):
        del model.graph.output[:]
        model.graph.output.extend(kept)
        prune(model.graph)


def _name_batch(model: ModelProto) -> None:
    """Call the open first dimension "batch" wherever its old name stands."""
    first = model.graph.input[0].type.tensor_type.shape.dim
    if not first or (first[0].HasField("dim_value") and first[0].dim_value > 0):
        return
    old = first[0].dim_param
    first[0].dim_param = "batch"
    for info in model.graph.output:
        _rename_dims(info, old)


def _rename_dims(info: ValueInfoProto, old: str) -> None:
    for dim in info.type.tensor_type.shape.dim:
        if old and dim.dim_param == old:
            dim.dim_param = "batch"


def _converted(model: ModelProto) -> bool:
    """Convert to our opset in place; whether that was possible.

    A graph that keeps its opset is not folded: the meaning of its operators is another one.
    """
    version = max(o.version for o in model.opset_import if o.domain in STANDARD)
    if version != OPSET:
        if any(n.domain == DOMAIN for n in model.graph.node):
            return False
        light = ModelProto()
        light.CopyFrom(model)
        try:
            changed = version_converter.convert_version(as_inputs(light), OPSET)
        except (
            RuntimeError,
            ValueError,
            version_converter.ConvertError,
            onnx.shape_inference.InferenceError,
        ):
            return False
        from_inputs(changed, light)
        model.CopyFrom(changed)
    model.ir_version = IR_VERSION
    return True


def _line(error: BaseException) -> str:
    return next((x.strip() for x in str(error).splitlines() if x.strip()), type(error).__name__)
