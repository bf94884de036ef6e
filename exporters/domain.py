"""The op domain ``ai.sepdeploy``: schemas, and function bodies in standard ONNX ops.

Version 1::

    KronLinear    (x: (M, n_in), F_1 … F_d: (K, o_m, i_m), bias: (n_out,))
                  attributes in_shape, out_shape: ints; terms: int
    LowRankLinear (x: (M, n_in), U: (n_in, r), V: (n_out, r), bias: (n_out,))

A file that keeps such nodes carries one function body per variant (``overload`` names the shapes
and the form), so that a runtime which has never heard of the domain inlines the body.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onnx import FunctionProto, ModelProto, NodeProto, defs, helper
from onnx.defs import OpSchema

from sepdeploy.errors import BadInput
from sepdeploy.exporters.lowerings.emit import Emitter, Weight
from sepdeploy.exporters.onnx_graph.graph import attributes, initializers
from sepdeploy.records import DOMAIN as DOMAIN
from sepdeploy.structures import KronSpec, LowRankSpec

DOMAIN_VERSION = 1
OPSET = 20
IR_VERSION = 10

StructuredSpec = KronSpec | LowRankSpec
Builder = Callable[[Emitter, Any, str, Any, Weight], str]


@dataclass(frozen=True)
class Op:
    """One op of the domain: its structure, its schema and how to read a node's shapes."""

    op_type: str
    structure: str
    schema: OpSchema
    spec: Callable[[NodeProto, Mapping[str, tuple[int, ...]]], StructuredSpec]


def _schema(op_type: str, doc: str, ints: tuple[str, ...], counts: tuple[str, ...]) -> OpSchema:
    # One variadic parameter: exporters translate a tensor list into it without knowing how many
    # factors there are, and schemas allow a variadic parameter only at the end.
    inputs = OpSchema.FormalParameter(
        "inputs",
        "T",
        "x, the factors in order, the bias",
        param_option=OpSchema.FormalParameterOption.Variadic,
        min_arity=4,
    )
    outputs = OpSchema.FormalParameter("y", "T", "shape (M, n_out)")
    types = ("T", ["tensor(float)", "tensor(float16)", "tensor(double)"], "floating point")
    kinds = ((ints, OpSchema.AttrType.INTS), (counts, OpSchema.AttrType.INT))
    attrs = [OpSchema.Attribute(n, t, required=True) for names, t in kinds for n in names]
    return OpSchema(
        op_type,
        DOMAIN,
        DOMAIN_VERSION,
        doc,
        inputs=[inputs],
        outputs=[outputs],
        type_constraints=[types],
        attributes=attrs,
    )


def _kron_spec(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> KronSpec:
    found = attributes(node)
    spec = KronSpec(
        tuple(found.get("in_shape", ())), tuple(found.get("out_shape", ())), found.get("terms", 1)
    )
    _check_inputs(node, shapes, (*spec.factor_shapes, (spec.out_features,)))
    return spec


def _lowrank_spec(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> LowRankSpec:
    u = shapes.get(node.input[1] if len(node.input) == 4 else "", ())
    v = shapes.get(node.input[2] if len(node.input) == 4 else "", ())
    if len(u) != 2 or len(v) != 2:
        raise BadInput(f"node '{node.name}': U and V must be constant matrices")
    spec = LowRankSpec(u[0], v[0], u[1])
    _check_inputs(node, shapes, (u, (v[0], u[1]), (v[0],)))
    return spec


def _check_inputs(
    node: NodeProto,
    shapes: Mapping[str, tuple[int, ...]],
    expected: tuple[tuple[int, ...], ...],
) -> None:
    found = tuple(shapes.get(name) for name in node.input[1:])
    if found != expected:
        raise BadInput(
            f"node '{node.name}' ({node.op_type}) has inputs of shapes {list(found)}, "
            f"expected constants of {list(expected)}"
        )


OPS: dict[str, Op] = {
    op.op_type: op
    for op in (
        Op(
            "KronLinear",
            "kron",
            _schema(
                "KronLinear",
                "y = x Wᵀ + b with W = Σ_k F_1k ⊗ … ⊗ F_dk.",
                ("in_shape", "out_shape"),
                ("terms",),
            ),
            _kron_spec,
        ),
        Op(
            "LowRankLinear",
            "lowrank",
            _schema("LowRankLinear", "y = (x U) Vᵀ + b.", (), ()),
            _lowrank_spec,
        ),
    )
}


def register_schemas() -> None:
    """Make the ops known to onnx in this process; doing it again changes nothing."""
    for op in OPS.values():
        if not defs.has(op.op_type, domain=DOMAIN):
            defs.register_schema(op.schema)


def structured_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """The nodes of the domain, in graph order.

    Raises:
        BadInput: A node of the domain has an op that this version does not know.
    """
    for node in model.graph.node:
        if node.domain == DOMAIN:
            known_op(node)
            yield node


def known_op(node: NodeProto, where: str = "") -> Op:
    """The op of a node of the domain; ``where`` starts the message of an error.

    Raises:
        BadInput: This version does not know it.
    """
    if node.op_type not in OPS:
        raise BadInput(
            f"{where}{where and ': '}node '{node.name}' has unknown op {DOMAIN}.{node.op_type}",
            hint="was the file written by a newer version of sepdeploy?",
        )
    return OPS[node.op_type]


def constant_shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of every constant, for ``node_spec``."""
    return {name: tuple(t.dims) for name, t in initializers(model.graph).items()}


def node_spec(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> StructuredSpec:
    """The structure a node stands for.

    Args:
        node: A node of the domain.
        shapes: Shapes of the graph's constants (``constant_shapes``).

    Raises:
        BadInput: An unknown op, or the shapes of its constants contradict its attributes.
    """
    op = known_op(node)
    try:
        return op.spec(node, shapes)
    except (TypeError, ValueError) as error:  # an attribute of another type
        raise BadInput(f"node '{node.name}' ({node.op_type}): {error}") from error


def function_body(
    node: NodeProto, spec: StructuredSpec, form: str, build: Builder, overload: str
) -> FunctionProto:
    """The body of one variant in standard ops; sizes are read from the factors' shapes.

    Args:
        node: A node of the domain; only its op and its attribute names matter.
        spec: An example of the structures it is for.
        form: Name of the lowering form.
        build: The form's builder.
        overload: Name of the variant.
    """
    names = [f"F{i + 1}" for i in range(len(spec.factor_shapes))]
    emitter = Emitter(f"{node.op_type}/{form}", inside_function=True)
    factors = [Weight.argument(n, s) for n, s in zip(names, spec.factor_shapes, strict=True)]
    build(emitter, spec, "x", factors, Weight.argument("bias", (spec.out_features,)))
    emitter.nodes[-1].output[0] = "y"
    return helper.make_function(
        DOMAIN,
        node.op_type,
        ["x", *names, "bias"],
        ["y"],
        emitter.nodes,
        [helper.make_opsetid("", OPSET)],
        attributes=sorted(a.name for a in node.attribute),
        overload=overload,
    )


def ensure_domain(model: ModelProto) -> None:
    """Declare the domain exactly if the graph uses it."""
    used = any(n.domain == DOMAIN for n in model.graph.node)
    others = [o for o in model.opset_import if o.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(others)
    if used:
        model.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
