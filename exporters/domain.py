"""The op domain ``ai.sepdeploy``: schemas, and function bodies in standard ONNX ops.

Each structure family has one op (``sepdeploy.exporters.families``); all are called alike::

    Op (x: (M, n_in), its factors, bias: (n_out,)) -> (M, n_out)

Version 1::

    KronLinear    F_1 … F_d: (K, o_m, i_m); attributes in_shape, out_shape: ints; terms: int
    LowRankLinear U: (n_in, r), V: (n_out, r)
    DeButLinear   F_1 … F_N: (G·t, r, s); attributes r, s, t: ints; n_in, n_out: int

A file that keeps such nodes carries one function body per variant (``overload`` names the shapes
and the form), so that a runtime which has never heard of the domain inlines the body.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnx import FunctionProto, ModelProto, NodeProto, defs, helper
from onnx.defs import OpSchema

from sepdeploy.errors import GRAPH, BadInput
from sepdeploy.exporters.families import FAMILIES, Family, family_of_op
from sepdeploy.exporters.families.emit import Emitter, Weight
from sepdeploy.exporters.families.family import OnnxBuilder
from sepdeploy.exporters.onnx_graph.graph import attributes, initializers
from sepdeploy.records import DOMAIN as DOMAIN
from sepdeploy.structures import Spec

DOMAIN_VERSION = 1
OPSET = 20
IR_VERSION = 10


def _schema(family: Family) -> OpSchema:
    # One variadic parameter: exporters translate a tensor list into it without knowing how many
    # factors there are, and schemas allow a variadic parameter only at the end.
    inputs = OpSchema.FormalParameter(
        "inputs",
        "T",
        "x, the factors in order, the bias",
        param_option=OpSchema.FormalParameterOption.Variadic,
        min_arity=3,
    )
    outputs = OpSchema.FormalParameter("y", "T", "shape (M, n_out)")
    types = ("T", ["tensor(float)", "tensor(float16)", "tensor(double)"], "floating point")
    kinds = ((family.ints, OpSchema.AttrType.INTS), (family.counts, OpSchema.AttrType.INT))
    attrs = [OpSchema.Attribute(n, t, required=True) for names, t in kinds for n in names]
    return OpSchema(
        family.op_type,
        DOMAIN,
        DOMAIN_VERSION,
        family.doc,
        inputs=[inputs],
        outputs=[outputs],
        type_constraints=[types],
        attributes=attrs,
    )


def register_schemas() -> None:
    """Make the ops known to onnx in this process; doing it again changes nothing."""
    for family in FAMILIES.values():
        if not defs.has(family.op_type, domain=DOMAIN):
            defs.register_schema(_schema(family))


def structured_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """The nodes of the domain, in graph order.

    Raises:
        BadInput: A node of the domain has an op that this version does not know.
    """
    for node in model.graph.node:
        if node.domain == DOMAIN:
            known_op(node.op_type, node.name)
            yield node


def known_op(op_type: str, name: str, where: str = "") -> Family:
    """The family of a node of the domain.

    Args:
        op_type: The node's op.
        name: The node's name, for the message of an error.
        where: What starts that message.

    Raises:
        BadInput: This version does not know it.
    """
    family = family_of_op(op_type)
    if family is None:
        raise BadInput(
            f"{where}{where and ': '}node '{name}' has unknown op {DOMAIN}.{op_type}",
            hint="was the file written by a newer version of sepdeploy?",
        )
    return family


def constant_shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of every constant, for ``node_spec``."""
    return {name: tuple(t.dims) for name, t in initializers(model.graph).items()}


def node_spec(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> Spec:
    """The structure a node stands for.

    Args:
        node: A node of the domain.
        shapes: Shapes of the graph's constants (``constant_shapes``).

    Raises:
        BadInput: An unknown op, or the shapes of its constants contradict its attributes.
    """
    family = known_op(node.op_type, node.name)
    found = [shapes.get(name, ()) for name in node.input[1:]]
    return read_structure(family, node.name, attributes(node), found)


def read_structure(
    family: Family,
    name: str,
    attributes: Mapping[str, Any],
    shapes: Sequence[tuple[int, ...]],
    *,
    bias: bool = True,
) -> Spec:
    """The structure of a layer from its attributes and the shapes of its factors and its bias.

    Args:
        family: Of the layer.
        name: Of the layer, for the message of an error.
        attributes: Those of its node.
        shapes: Of the node's inputs behind x.
        bias: Whether a bias must be among them; without it, it may.

    Raises:
        BadInput: They contradict each other.
    """
    try:
        spec: Spec = family.read(attributes, shapes)
    except (BadInput, TypeError, ValueError) as error:  # an attribute of another type, too
        raise BadInput(f"node '{name}' ({family.op_type}): {error}", hint=GRAPH) from error
    expected = [*spec.factor_shapes, (spec.out_features,)]
    if list(shapes) != expected and (bias or list(shapes) != expected[:-1]):
        raise BadInput(
            f"node '{name}' ({family.op_type}) has inputs of shapes {list(shapes)}, "
            f"expected constants of {expected}",
            hint=GRAPH,
        )
    return spec


def function_body(
    node: NodeProto, spec: Spec, form: str, build: OnnxBuilder, overload: str
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
