"""Recurrent layers, and constants that are repeated for every sample, in TFLite files."""

from functools import cache

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import sepdeploy as sd
from sepdeploy.exporters.tflite_file.convert import convert

STEPS, WIDTH = 4, 6


class Recurrent(nn.Module):
    """Everything that a recurrent layer gives, its outputs and its last state."""

    def __init__(self, kind, *, start=False, **options):
        super().__init__()
        self.r = kind(WIDTH, 5, batch_first=True, **options)
        rows = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
        self.start = nn.Parameter(torch.randn(rows, 1, 5)) if start else None
        self.f = nn.LazyLinear(3)

    def forward(self, x):
        state = None
        if self.start is not None:
            state = self.start.expand(-1, x.shape[0], -1).contiguous()
            state = (state, state) if isinstance(self.r, nn.LSTM) else state
        y, last = self.r(x, state)
        h = last[0] if isinstance(last, tuple) else last
        return self.f(torch.cat([y.flatten(1), h.transpose(0, 1).flatten(1)], 1))


class Repeated(nn.Module):
    """A constant repeated over the batch, used in one way."""

    def __init__(self, use):
        super().__init__()
        self.use, self.q, self.f = use, nn.Parameter(torch.randn(1, 5, WIDTH)), nn.LazyLinear(3)

    def forward(self, x):
        return self.f(self.use(x, self.q.expand(x.shape[0], -1, -1)).flatten(1))


def eye(x, _):
    return x.transpose(1, 2) @ x + torch.eye(WIDTH).repeat(x.shape[0], 1, 1)


NETS = {
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
    "RNN": lambda: Recurrent(nn.RNN, nonlinearity="relu"),
    "LSTM, two layers, both ways": lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True),
    "GRU, both ways": lambda: Recurrent(nn.GRU, bidirectional=True),
    "LSTM without bias": lambda: Recurrent(nn.LSTM, bias=False),
    "LSTM, learned start": lambda: Recurrent(nn.LSTM, start=True),
    "GRU, learned start": lambda: Recurrent(nn.GRU, start=True, num_layers=2),
    "queries": lambda: Repeated(lambda x, q: q @ x.transpose(1, 2)),
    "turned queries": lambda: Repeated(lambda x, q: x @ q.transpose(1, 2)),
    "flattened": lambda: Repeated(lambda x, q: torch.cat([x.flatten(1), q.flatten(1)], 1)),
    "sliced": lambda: Repeated(lambda x, q: q[:, 1:3] * x[:, :2]),
    "activated": lambda: Repeated(lambda x, q: torch.tanh(q)[:, :4] + x),
    "eye": lambda: Repeated(eye),
}


QUICK = ("LSTM", "GRU", "eye")
SLOW = tuple(name for name in NETS if name not in QUICK)


class Together(nn.Module):
    """Several networks on the same steps: one export for all of them, three logits of each."""

    def __init__(self, names):
        super().__init__()
        self.nets = nn.ModuleList(NETS[name]() for name in names)

    def forward(self, x):
        return torch.cat([net(x) for net in self.nets], 1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function: names of networks to the model that holds them and its file."""

    @cache
    def made(names):
        torch.manual_seed(0)
        model = sd.wrap(Together(names).eval(), (STEPS, WIDTH)).eval()
        path = tmp_path_factory.mktemp("recurrent") / "net"
        sd.export(model, path, formats=("tflite",), eval_pack=False)
        return model, path.with_suffix(".tflite")

    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_torch_gives_the_same_in_every_batch(exported, name):
    names = QUICK if name in QUICK else SLOW
    model, path = exported(names)
    logits = slice(3 * names.index(name), 3 * names.index(name) + 3)
    with sd.open(path) as session, torch.no_grad():
        for n in (1, 5):
            x = torch.randn(n, STEPS, WIDTH)
            expected = model(x).numpy()[:, logits]
            np.testing.assert_allclose(session.run(x.numpy())[:, logits], expected, atol=1e-5)


def test_weights_are_kept_once_and_a_start_of_zeros_costs_nothing():
    rng = np.random.default_rng(0)
    weights = {"w": (1, 20, 6), "r": (1, 20, 5), "b": (1, 40)}
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["x", "w", "r", "b"], ["y"], "lstm", hidden_size=5, layout=1)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 1, 5])],
        [
            numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    ops = convert(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])).ops
    products = [op for op in ops if op.kind == "FULLY_CONNECTED"]
    assert len(products) == 4  # one for all inputs, one for every step but the first
    assert len({id(op.inputs[1]) for op in products}) == 2
    assert not [op for op in ops if op.kind in ("MINIMUM", "MAXIMUM")]
