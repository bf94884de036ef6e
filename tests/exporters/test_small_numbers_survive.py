"""Constants near 0 and 1 in every place where an optimiser could take them for none."""

import numpy as np
import pytest
import torch
from torch import nn

import sepdeploy as sd
from sepdeploy.layers import KronLinear

OPERATIONS = {
    "add 1e-8": lambda x: x + 1e-8,
    "add 1e-30": lambda x: x + 1e-30,
    "subtract 1e-9": lambda x: x - 1e-9,
    "multiply": lambda x: x * 1.0000001,
    "divide": lambda x: x / 1.0000001,
    "power": lambda x: x**1.0000001,
    "clamp": lambda x: 1 / x.clamp(min=1e-12),
    "scale away and back": lambda x: (x * 1e-30) * 1e30,
}


class Together(nn.Module):
    def forward(self, x):
        return torch.cat([f(x) for f in OPERATIONS.values()], 1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    sd.export(sd.wrap(Together(), (4,)).eval(), folder / "net", eval_pack=False)
    return folder


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_torch_gives_the_same_digits(exported, suffix):
    x = np.array([[0.0, 1.0, 1e-8, 3.0]], np.float32)
    want = Together()(torch.from_numpy(x)).numpy()
    with sd.open(exported / f"net{suffix}") as session:
        np.testing.assert_allclose(session.run(x), want, rtol=1e-5)
        one = session.run(np.ones((1, 4), np.float32)).reshape(len(OPERATIONS), 4)
    kept = dict(zip(OPERATIONS, one[:, 0], strict=True))
    assert kept["multiply"] > 1 > kept["divide"]


class Beside(nn.Module):
    """The same operations beside layers that are custom nodes, or stored in float16."""

    def __init__(self):
        super().__init__()
        self.kron, self.dense = KronLinear((8, 8), (8, 8)), nn.Linear(64, 64)

    def forward(self, x):
        layers = [self.kron(x), self.dense(x)]
        return torch.cat([f(x) for f in OPERATIONS.values()] + layers, 1)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"flavour": "custom"}, {"quantize": "fp16"}], ids=str)
def test_other_kinds_of_files_keep_them_too(tmp_path, settings):
    torch.manual_seed(0)
    net = Beside().eval()
    sd.export(sd.wrap(net, (64,)).eval(), tmp_path / "net", eval_pack=False, **settings)
    x = np.concatenate([np.float32([0.0, 1.0, 1e-8, 3.0]), np.linspace(0, 1, 60, dtype=np.float32)])
    with torch.no_grad():
        want = net(torch.from_numpy(x[None])).numpy()
    number = 64 * len(OPERATIONS)
    files = [p for p in tmp_path.iterdir() if p.suffix in (".onnx", ".tflite")]
    assert {p.suffix for p in files} == {".onnx", ".tflite"}
    for path in files:
        with sd.open(path) as session:
            found, one = session.run(x[None]), session.run(np.ones((1, 64), np.float32))
        np.testing.assert_allclose(found[:, :number], want[:, :number], rtol=1e-5)
        np.testing.assert_allclose(found[:, number:], want[:, number:], atol=2e-2)
        kept = dict(zip(OPERATIONS, one[0, :number].reshape(-1, 64)[:, 0], strict=True))
        assert kept["multiply"] > 1 > kept["divide"]
