"""A foreign ONNX graph in canonical form: our opset, names of its own kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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
from sepdeploy.exporters.onnx_graph.shapes import open_sizes
from sepdeploy.exporters.onnx_graph.weights import Weights, as_inputs, from_inputs, settle

MIN_OPSET = 7  # older ones are read where the version converter knows all their operators
WEIGHTS_APART = 4  # of the file format, from which on a weight need not be an input
STANDARD = ("", "ai.onnx")


def normalize(
    light: ModelProto,
    weights: Weights,
    *,
    where: str,
    notify: Callable[[str], None],
    outputs: Sequence[str] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> ModelProto:
    """Bring a foreign model into canonical form.

    Functions are inlined, the opset is converted, constants are folded, the first dimension of
    the inputs is called "batch" where it is open. All outputs are kept, in their order.

    Args:
        light: The model as ``onnx_source.read_onnx`` gives it.
        weights: Its held numbers.
        where: Starts every error message.
        notify: Told what is kept.
        outputs: The only ones to keep; none: all.
        shapes: Sizes for what the inputs leave open, by the inputs' names.

    Returns:
        A complete model, weights included.

    Raises:
        BadInput: No input, an opset that is too old, an operator of another domain, or a
            graph that is not valid ONNX or mixes the samples of a batch.
    """
    model = _inlined(light, where)
    strip_metadata(model)
    del model.graph.value_info[:]  # inferred again, in our names and without its errors
    _check_operators(model, where)
    _take_inputs(model, where)
    fix_sizes(model, where, shapes or {})
    renew(model, _opset(model))
    _check_graph(model, where)
    if computes_in_half(model):
        widen(model, weights)
    _keep_outputs(model, where, notify, outputs)
    _name_batch(model)
    if _converted(model):
        clean(model, weights)
    elif (opset := _opset(model)) < MIN_OPSET:
        raise _too_old(where, opset)
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
    (info,) = model.graph.input
    dims = info.type.tensor_type.shape.dim
    shape = tuple(d.dim_value for d in dims)  # 0 where it is open
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
            hint=f"fix the sizes: --input-shape {info.name}=1,...",
        )
    return shape[1:]


def check_sizes(model: ModelProto, where: str) -> None:
    """Refuse inputs that leave more open than the batch.

    Raises:
        BadInput: One does; two open sizes are one only where they have the same name.
    """
    for info in model.graph.input:
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") and dim.dim_param != "batch":
                raise BadInput(
                    f"{where}: size {axis} ('{dim.dim_param or '?'}') of input '{info.name}' is "
                    "open; only the batch, the first one of an input, may be",
                    hint=f"fix the sizes: --input-shape {info.name}=1,...",
                )


def fixed_batch(model: ModelProto) -> int | None:
    """The batch size that a model insists on, None where any will do."""
    firsts = [i.type.tensor_type.shape.dim[0] for i in model.graph.input if _rank(i)]
    fixed = [int(d.dim_value) for d in firsts if d.HasField("dim_value")]
    return None if len(fixed) < len(firsts) else fixed[0] if fixed else 1


def _rank(info: ValueInfoProto) -> int:
    return len(info.type.tensor_type.shape.dim)


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
    if not any(o.domain in STANDARD for o in model.opset_import):
        raise _too_old(where, 0)


def _too_old(where: str, opset: int) -> BadInput:
    return BadInput(
        f"{where}: opset {opset} is too old, at least {MIN_OPSET} is needed",
        hint="export the model again with opset 20",
    )


def _drops(model: ModelProto, node: NodeProto) -> bool:
    """Whether a node is a Dropout in training mode, or nobody knows."""
    if node.op_type != "Dropout" or len(node.input) < 3:
        return False
    tensors = {t.name: t for t in model.graph.initializer}
    tensors |= {n.output[0]: a.t for n in model.graph.node for a in n.attribute if a.HasField("t")}
    mode = tensors.get(node.input[2])
    return bool(node.input[2]) and (mode is None or bool(to_array(mode).any()))


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


def _take_inputs(model: ModelProto, where: str) -> None:
    """Leave the inputs that are no weights."""
    constants = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    odd = next((i for i in inputs if not i.type.HasField("tensor_type")), None)
    if not inputs or odd is not None:
        what = "the network has no input" if odd is None else f"input '{odd.name}' is no tensor"
        raise BadInput(f"{where}: {what}", hint="export a network that takes tensors")
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    # Version 3 asks every weight to be an input as well, which ours never are.
    model.ir_version = max(model.ir_version, WEIGHTS_APART)


def fix_sizes(model: ModelProto, where: str, shapes: Mapping[str, Sequence[int]]) -> None:
    """Write chosen sizes in the place of open ones; a name stands for one size everywhere.

    A size below 1, as some write an open one, is open from here on.

    Raises:
        BadInput: There is no such input, its fixed sizes are other ones, or a name gets two sizes.
    """
    open_sizes(model.graph)
    known = {i.name: i for i in model.graph.input}
    named: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in known:
            raise unknown_name(f"input of {where}", name, known)
        dims = known[name].type.tensor_type.shape.dim
        if len(dims) != len(shape) or any(
            d.HasField("dim_value") and d.dim_value != n for d, n in zip(dims, shape, strict=False)
        ):
            told = [d.dim_param or d.dim_value or "?" for d in dims]
            raise BadInput(
                f"{where}: input '{name}' is {told}, not {list(shape)}",
                hint="only its open sizes can be chosen",
            )
        for dim, size in zip(dims, shape, strict=True):
            if dim.dim_param and named.setdefault(dim.dim_param, size) != size:
                raise BadInput(
                    f"{where}: size '{dim.dim_param}' is {named[dim.dim_param]} and {size}",
                    hint="a named size is one number, in all inputs",
                )
            dim.dim_value = size
    for info in (*model.graph.input, *model.graph.output):
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param in named:
                dim.dim_value = named[dim.dim_param]


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
    inputs = [i.type.tensor_type.shape.dim for i in model.graph.input if _rank(i)]
    firsts = [dims[0] for dims in inputs if not dims[0].HasField("dim_value")]
    if not firsts:
        return
    old = firsts[0].dim_param
    firsts[0].dim_param = "batch"
    for info in (*model.graph.input, *model.graph.output):
        _rename_dims(info, old)


def _rename_dims(info: ValueInfoProto, old: str) -> None:
    for dim in info.type.tensor_type.shape.dim:
        if old and dim.dim_param == old:
            dim.dim_param = "batch"


def _opset(model: ModelProto) -> int:
    return int(max(o.version for o in model.opset_import if o.domain in STANDARD))


def _converted(model: ModelProto) -> bool:
    """Convert to our opset in place; whether that was possible.

    A graph that keeps its opset is not folded: the meaning of its operators is another one.
    """
    if _opset(model) != OPSET:
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
