"""The op domain: schemas, and nodes that contradict themselves."""

import numpy as np
import pytest
from onnx import defs, helper, numpy_helper
from onnx_graphs import Chain

from sepdeploy.errors import BadInput
from sepdeploy.exporters.domain import (
    DOMAIN,
    constant_shapes,
    ensure_domain,
    node_spec,
    register_schemas,
    structured_nodes,
)
from sepdeploy.exporters.families import FAMILIES
from sepdeploy.structures import DenseSpec, KronSpec, LowRankSpec


def test_schemas_register_once():
    register_schemas()
    register_schemas()
    for family in FAMILIES.values():
        schema = defs.get_schema(family.op_type, domain=DOMAIN)
        assert schema.since_version == 1
    assert set(defs.get_schema("KronLinear", domain=DOMAIN).attributes) == {
        "in_shape",
        "out_shape",
        "terms",
    }


@pytest.mark.parametrize(
    "spec", [KronSpec((4, 6), (3, 5), 2), KronSpec((2, 3, 4), (4, 1, 2)), LowRankSpec(9, 7, 2)]
)
def test_a_node_tells_its_structure(spec):
    model = Chain(spec).canonical()
    (node,) = structured_nodes(model)
    assert node_spec(node, constant_shapes(model)) == spec


def broken(change, spec=None):
    model = Chain(spec or KronSpec((4, 6), (3, 5))).canonical()
    change(model)
    (node,) = structured_nodes(model)
    return node_spec(node, constant_shapes(model))


def replace_constant(name, shape):
    def change(model):
        for tensor in model.graph.initializer:
            if tensor.name == name:
                tensor.CopyFrom(numpy_helper.from_array(np.zeros(shape, np.float32), name))

    return change


def set_attribute(name, value):
    def change(model):
        node = model.graph.node[0]
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


@pytest.mark.parametrize(
    ("change", "spec"),
    [
        (replace_constant("fc1.F0", (1, 3, 5)), None),
        (replace_constant("fc1.bias", (14,)), None),
        (set_attribute("terms", 2), None),
        (set_attribute("terms", 10**9), None),
        (set_attribute("in_shape", [10**9, 10**9]), None),
        (set_attribute("out_shape", [3]), None),
        (set_attribute("out_shape", 15), None),
        (set_attribute("terms", "many"), None),
        (lambda m: m.graph.node[0].input.pop(), None),
        (lambda m: m.graph.node[0].input.pop(), LowRankSpec(9, 7, 2)),
        (replace_constant("fc1.F0", (9, 2, 1)), LowRankSpec(9, 7, 2)),
        (replace_constant("fc1.F1", (7, 3)), LowRankSpec(9, 7, 2)),
    ],
)
def test_contradictions_are_bad_input(change, spec):
    with pytest.raises(BadInput) as caught:
        broken(change, spec)
    assert "\n" not in caught.value.message


def test_an_op_of_a_newer_version_is_named():
    model = Chain(KronSpec((2, 2), (2, 2))).canonical()
    model.graph.node[0].op_type = "TensorTrainLinear"
    with pytest.raises(BadInput, match=r"ai\.sepdeploy\.TensorTrainLinear") as caught:
        list(structured_nodes(model))
    assert "newer" in caught.value.hint


def test_the_domain_is_declared_only_where_used():
    for spec, expected in ((KronSpec((2, 2), (2, 2)), ["", DOMAIN]), (DenseSpec(4, 4), [""])):
        model = Chain(spec).canonical()
        ensure_domain(model)
        ensure_domain(model)
        assert [o.domain for o in model.opset_import] == expected
