import json

import pytest
import torch
from torch import nn

from sepdeploy.layers import KronLinear, LowRankLinear, graph_nodes
from sepdeploy.layers.graph import is_tracing, structured_linear

LAYERS = [
    KronLinear((3, 4), (5, 2), 2),
    KronLinear((3, 4), (5, 2), bias=False),
    KronLinear((2, 3, 2), (2, 2, 3)),
    LowRankLinear(12, 10, 3),
    LowRankLinear(12, 10, 3, bias=False),
]


def test_the_flag_is_restored():
    assert not is_tracing()
    with graph_nodes():
        assert is_tracing()
        with pytest.raises(ZeroDivisionError), graph_nodes():
            raise ZeroDivisionError
        assert is_tracing()
    assert not is_tracing()


def is_product(node):
    products = ("mm", "bmm", "matmul", "linear", "einsum", "mul")
    return str(node.target).startswith(tuple(f"aten.{p}" for p in products))


def followers(node):
    """All nodes computed from a node (the folded low-rank core is computed from weights only)."""
    found = set(node.users)
    for user in node.users:
        found |= followers(user)
    return found


@pytest.mark.parametrize(
    "layer",
    LAYERS,
    ids=["kron*2", "kron without bias", "kron of 3 modes", "lowrank", "lowrank without bias"],
)
@pytest.mark.parametrize("lead", [(2,), (2, 3)], ids=["samples", "tokens"])
def test_a_traced_layer_is_one_node(layer, lead):
    net = nn.Sequential(layer, nn.ReLU())
    x = torch.randn(*lead, 12)
    with graph_nodes(), torch.no_grad():
        program = torch.export.export(
            net.eval(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
    names = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert sum(name.startswith("sepdeploy.") for name in names) == 1
    sample = next(n for n in program.graph.nodes if n.op == "placeholder" and "p_" not in n.name)
    assert not any(is_product(node) for node in followers(sample))
    larger = torch.randn(7, *lead[1:], 12)
    with torch.no_grad():
        assert torch.allclose(program.module()(larger), net(larger), atol=1e-5)


def test_modes_survive_tracing():
    layer = KronLinear((3, 4), (5, 2))
    with graph_nodes(), torch.no_grad():
        program = torch.export.export(
            layer.eval(),
            (torch.randn(2, 3, 4),),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    assert program.module()(torch.randn(9, 3, 4)).shape == (9, 5, 2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_op_keeps_pytorchs_rules():
    x = torch.randn(4, 12)
    tests = ("test_schema", "test_faketensor")
    for layer in LAYERS:
        factors = [f.detach() for f in layer.factors()]
        bias = None if layer.bias is None else layer.bias.detach()
        arguments = (x, factors, bias, json.dumps(layer.spec.to_json()))
        torch.library.opcheck(structured_linear, arguments, test_utils=tests)


def test_the_op_is_for_tracing_not_for_training():
    layer = KronLinear((3, 4), (5, 2))
    with graph_nodes(), pytest.raises((RuntimeError, NotImplementedError)):
        layer(torch.randn(2, 12)).sum().backward()
