"""nn.Module → canonical graph: what is in it, under which names, and that nothing else is."""

import hashlib
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import checker
from onnx_graphs import ops, relative, run_ort, run_reference
from torch import nn

from sepdeploy.errors import BadInput, Missing
from sepdeploy.exporters.capture.trace import trace
from sepdeploy.exporters.domain import DOMAIN, constant_shapes, node_spec, structured_nodes
from sepdeploy.exporters.onnx_file.bodies import with_bodies
from sepdeploy.exporters.onnx_file.write import lower
from sepdeploy.exporters.onnx_graph.graph import float_bytes, serialize, to_array
from sepdeploy.exporters.plan import plan
from sepdeploy.layers import KronLinear, LowRankLinear
from sepdeploy.models import Model, create, wrap
from sepdeploy.records import InputSpec

DIGIT = InputSpec((1, 8, 8), (0.3,), (0.4,))


def lively(model):
    """Random biases: a zero would hide one that is added in the wrong place."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return model.eval()


def mlp(structure, **kwargs):
    torch.manual_seed(0)
    return lively(create("mlp", DIGIT, 10, structure, hidden=(256, 256), **kwargs))


def lenet(structure):
    torch.manual_seed(0)
    return lively(create("lenet", InputSpec((1, 28, 28), (0.1,), (0.3,)), 10, structure))


BUILDERS = {
    "mlp-kron": lambda: mlp("kron"),
    "mlp-lowrank": lambda: mlp("lowrank:6"),
    "mlp-dense": lambda: mlp(None),
    "lenet-kron": lambda: lenet("kron"),
}
HEAD = ["Sub", "Div"]
LENET = ["Conv", "Relu", "MaxPool"] * 2
EXPECTED = {
    "mlp-kron": [*HEAD, "Reshape", "KronLinear", "Relu", "KronLinear", "Relu", "Gemm"],
    "mlp-lowrank": [*HEAD, "Reshape", "LowRankLinear", "Relu", "LowRankLinear", "Relu", "Gemm"],
    "mlp-dense": [*HEAD, "Reshape", "Gemm", "Relu", "Gemm", "Relu", "Gemm"],
    "lenet-kron": [*HEAD, *LENET, "Reshape", "KronLinear", "Relu", "KronLinear", "Relu", "Gemm"],
}
_traced = {}


def traced(name):
    """Each model traced once, whatever the order of the tests."""
    if name not in _traced:
        model = BUILDERS[name]()
        _traced[name] = model, trace(model)
    return _traced[name]


def images(model, n):
    return np.random.default_rng(n).random((n, *model.input.shape), dtype=np.float32)


def logits(model, x):
    with torch.no_grad():
        return model(torch.from_numpy(x)).numpy()


def flat_model(net, features=16):
    return wrap(lively(net), (features,)).eval()


@pytest.mark.parametrize("name", BUILDERS)
def test_graphs_have_the_expected_nodes_and_numbers(name):
    model, graph = traced(name)
    assert ops(graph) == EXPECTED[name]
    choices = plan(graph, "onnx")
    for batch in (1, 3, 32):
        x = images(model, batch)
        for form in (lower(graph, choices), with_bodies(graph, choices)):
            assert relative(run_ort(form, x), logits(model, x)) <= 1e-5
    x = images(model, 2)
    with_reference = run_reference(with_bodies(graph, choices), x)
    assert relative(with_reference, logits(model, x)) <= 1e-5


@pytest.mark.parametrize("name", BUILDERS)
def test_graphs_are_canonical(name):
    model, graph = traced(name)
    assert graph.ir_version == 10
    structured = bool(model.structured_layers())
    assert [o.version for o in graph.opset_import if o.domain == ""] == [20]
    assert any(o.domain == DOMAIN for o in graph.opset_import) == structured
    (source,), (sink,) = graph.graph.input, graph.graph.output
    assert (source.name, sink.name) == ("input", "logits")
    dims = source.type.tensor_type.shape.dim
    assert dims[0].dim_param == "batch"
    assert tuple(d.dim_value for d in dims[1:]) == model.input.shape
    assert sink.type.tensor_type.shape.dim[0].dim_param == "batch"
    checker.check_model(with_bodies(graph, plan(graph, "onnx")), full_check=True)


@pytest.mark.parametrize("name", BUILDERS)
def test_nothing_tells_where_the_model_was_made(name):
    _, graph = traced(name)
    data = serialize(graph)
    for trace_of_us in (b".py", b"pkg.torch", b"site-packages", str(onnx.__path__[0]).encode()):
        assert trace_of_us not in data


@pytest.mark.parametrize("name", BUILDERS)
def test_layers_and_weights_are_named_as_in_the_model(name):
    model, graph = traced(name)
    names = [n.name for n in graph.graph.node]
    assert len(set(names)) == len(names)
    records = {record.name: record for record in model.layer_records()}
    assert set(records) <= set(names)
    shapes = constant_shapes(graph)
    for node in structured_nodes(graph):
        assert node_spec(node, shapes) == model.structured_layers()[node.name].spec
    state = model.net.state_dict()
    constants = {t.name: to_array(t) for t in graph.graph.initializer}
    for key, value in state.items():
        if not key.endswith((".S", ".V")):  # those are folded into one
            np.testing.assert_array_equal(constants[key], value.numpy())


@pytest.mark.parametrize("name", BUILDERS)
def test_every_parameter_is_there_once(name):
    model, graph = traced(name)
    normalisation = 2 * len(model.input.mean)
    assert float_bytes(graph.graph) == 4 * (model.params + normalisation)


def test_the_core_of_a_low_rank_layer_is_folded():
    model, graph = traced("mlp-lowrank")
    (found,) = (to_array(t) for t in graph.graph.initializer if t.name == "fc2.V")
    layer = model.structured_layers()["fc2"]
    np.testing.assert_allclose(found, (layer.V @ layer.S.T).detach().numpy(), rtol=1e-5, atol=1e-6)


# --- single traits, on small networks


@pytest.fixture(scope="module")
def odd():
    """Layers without bias, equal biases, dropout, tokens, several terms and modes at once."""
    torch.manual_seed(3)

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = KronLinear((4, 4), (2, 2, 8)[:2], terms=3, bias=False)
            self.blocks = nn.Sequential(
                nn.Linear(4, 24), nn.Dropout(0.5), nn.Identity(), nn.Tanh(), nn.Linear(24, 24)
            )
            self.tokens = KronLinear((2, 2, 2), (2, 3, 2))
            self.low = LowRankLinear(36, 8, 3, bias=False)
            self.head = nn.Linear(8, 8)

        def forward(self, x):
            x = self.blocks(self.first(x)).reshape(-1, 3, 8)  # 3 tokens of 8 features
            return self.head(self.low(self.tokens(x).flatten(1)))

    model = wrap(Odd().eval(), (16,)).eval()
    return model, trace(model)


def test_an_odd_network_is_traced_in_full(odd):
    model, graph = odd
    assert [n.op_type for n in graph.graph.node if n.domain == DOMAIN] == [
        "KronLinear",
        "KronLinear",
        "LowRankLinear",
    ]
    assert not {"Dropout", "Identity", "Sub", "Div", "Constant"} & set(ops(graph))
    choices = plan(graph, "onnx")
    for batch in (1, 5):
        x = images(model, batch)
        for form in (lower(graph, choices), with_bodies(graph, choices)):
            assert relative(run_ort(form, x), logits(model, x)) <= 1e-5


def test_structured_nodes_always_have_a_bias(odd):
    _, graph = odd
    constants = {t.name: to_array(t) for t in graph.graph.initializer}
    nodes = {n.name: n for n in structured_nodes(graph)}
    for name, width in (("first", 4), ("low", 8)):
        assert nodes[name].input[-1] == f"{name}.bias"
        assert constants[f"{name}.bias"].tolist() == [0] * width


def test_equal_parameters_stay_apart(odd):
    """Exporters keep one of several equal constants: a layer's own bias must not vanish in it."""
    _, graph = odd
    names = {t.name for t in graph.graph.initializer}
    assert {"tokens.bias", "low.bias", "blocks.0.bias", "blocks.4.bias", "head.bias"} <= names
    shared = create("mlp", InputSpec((8,)), 4, "kron", hidden=(16, 16)).eval()  # all biases zero
    graph = trace(shared)
    assert [n.input[-1] for n in structured_nodes(graph)] == ["fc1.bias", "fc2.bias"]


def test_a_neutral_normalisation_leaves_no_node(odd):
    _, graph = odd
    assert not {"Sub", "Div", "Mul"} & set(ops(graph))
    assert not {"mean", "std"} & {t.name for t in graph.graph.initializer}


def test_a_network_that_is_one_layer_is_called_net():
    model = flat_model(KronLinear((4, 4), (2, 5)))
    graph = trace(model)
    assert [n.name for n in graph.graph.node] == ["net"]
    assert [r.name for r in model.layer_records()] == ["net"]
    assert set(graph.graph.node[0].input[1:]) == {"net.factors.0", "net.factors.1", "net.bias"}


def test_shared_weights_stay_shared():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = KronLinear((4, 4), (4, 4))

        def forward(self, x):
            return self.layer(self.layer(x).relu())

    model = flat_model(Twice())
    graph = trace(model)
    assert [n.name for n in structured_nodes(graph)] == ["layer", "layer_1"]
    assert float_bytes(graph.graph) == 4 * model.params
    x = images(model, 3)
    found = run_ort(lower(graph, plan(graph, "onnx")), x)
    assert relative(found, logits(model, x)) <= 1e-5


def test_factors_multiplied_in_the_graph_are_left_as_they_are():
    """A module that builds the Kronecker matrix itself: folding it would store the matrix."""

    class Naive(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Parameter(torch.randn(32, 32)) for _ in range(2))

        def forward(self, x):
            return x @ torch.kron(self.a, self.b).T

    graph = trace(wrap(Naive().eval(), (1024,)).eval())
    assert float_bytes(graph.graph) == 4 * 2 * 32 * 32


def test_tracing_changes_nothing_and_says_nothing(capfd, recwarn):
    model = flat_model(nn.Sequential(KronLinear((4, 4), (3, 3)), nn.ReLU(), nn.Linear(9, 2)))
    x = images(model, 2)
    before = logits(model, x)
    trace(model)
    np.testing.assert_allclose(logits(model, x), before, rtol=1e-5, atol=1e-6)
    assert capfd.readouterr() == ("", "")
    assert not list(recwarn)


# --- refusals


def test_a_model_in_training_mode_is_refused():
    model = mlp("kron").train()
    with pytest.raises(BadInput, match="training mode") as caught:
        trace(model)
    assert "eval()" in caught.value.hint


class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


class Distances(nn.Module):
    def forward(self, x):
        return torch.cdist(x.reshape(-1, 4, 4), x.reshape(-1, 4, 4)).flatten(1)


class AcrossTheBatch(nn.Module):
    """Causal attention whose tokens are the samples: how many there are is not known."""

    def forward(self, x):
        tokens = x.reshape(1, -1, 16)
        attend = nn.functional.scaled_dot_product_attention
        return attend(tokens, tokens, tokens, is_causal=True).reshape(-1, 16)


class Branching(nn.Module):
    def forward(self, x):
        return x.relu() if x.sum() > 3 else x


class FixedBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(2, 16))

    def forward(self, x):
        return x + (self.offset if x.shape[0] != 1 else 0)


@pytest.mark.parametrize(
    ("net", "message", "hint"),
    [
        (
            lambda: nn.Sequential(nn.Linear(16, 16), nn.Sequential(Bessel())),
            "bessel_j0.*'1.0' has no ONNX form$",
            "standard layers",
        ),
        (Distances, "cdist.* has no ONNX form$", "as a matmul"),
        (AcrossTheBatch, "attention.*: causal .* open number of tokens$", "standard layers"),
        (Branching, "cannot be traced.*test_trace_models.py", "values of a tensor"),
        (FixedBatch, "cannot be traced", "batch size"),
    ],
    ids=["operator", "known-way-out", "reason", "branch", "batch"],
)
def test_what_cannot_be_exported_is_one_line(net, message, hint, capfd):
    model = Model(net().eval(), InputSpec((16,))).eval()
    with pytest.raises(BadInput, match=message) as caught:
        trace(model)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400
    assert hint in caught.value.hint
    assert capfd.readouterr() == ("", "")


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 4)

    def forward(self, x):
        x = self.fc(x)
        return x - x.mean(0, keepdim=True)


class Counting(Centred):
    def forward(self, x):
        return self.fc(x) * (1.0 / x.shape[0])


@pytest.mark.parametrize(
    ("net", "match"),
    [(Centred, "reduces over the batch"), (Counting, "computes with the batch size")],
)
def test_samples_that_depend_on_each_other_are_refused(net, match):
    with pytest.raises(BadInput, match=match):
        trace(flat_model(net()))


def test_without_the_exporters_packages_the_hint_says_how_to_get_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript.values", None)
    with pytest.raises(Missing) as caught:
        trace(mlp("kron"))
    assert "pip install" in caught.value.hint


# --- determinism

TRACE = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from test_trace_models import BUILDERS
from sepdeploy.exporters.onnx_graph.graph import serialize
from sepdeploy.exporters.capture.trace import trace
print(hashlib.sha256(serialize(trace(BUILDERS["mlp-kron"]()))).hexdigest())
"""


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_process():
    _, graph = traced("mlp-kron")
    folder = __file__.rpartition("/")[0]
    run = subprocess.run(
        [sys.executable, "-c", TRACE, folder],
        env={"PYTHONHASHSEED": "99", "PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == hashlib.sha256(serialize(graph)).hexdigest()
