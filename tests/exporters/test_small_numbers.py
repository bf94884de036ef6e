"""Numbers that are nearly nothing are something: no clean-up of a graph may have a tolerance."""

import numpy as np
import pytest
import torch
from torch import nn

import sepdeploy as sd
from sepdeploy.layers import KronLinear

GUARDS = (1e-6, 1e-8, 1e-12, 1e-30)
OPERATIONS = {
    "add 1e-8": lambda x: x + 1e-8,
    "add 1e-30": lambda x: x + 1e-30,
    "subtract 1e-9": lambda x: x - 1e-9,
    "multiply": lambda x: x * 1.0000001,
    "divide": lambda x: x / 1.0000001,
    "power": lambda x: x**1.0000001,
    "clamp": lambda x: 1 / x.clamp(min=1e-12),
    "scale away and back": lambda x: (x * 1e-30) * 1e30,
    "up": lambda x: x + 1e-6,
    "down": lambda x: x - 1e-6,
    # finite for an empty image only while the guard is there
    **{f"guard {e}": lambda x, e=e: x / (x.norm(dim=1, keepdim=True) + e) for e in GUARDS},
}


class Together(nn.Module):
    def forward(self, x):
        return torch.cat([f(x) for f in OPERATIONS.values()], 1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    sd.export(sd.wrap(Together(), (4,)).eval(), folder / "net", eval_pack=False)
    return folder


@pytest.fixture(params=[".onnx", ".tflite"])
def outputs(request, exported):
    """Run the file on one image; what each operation gives."""
    with sd.open(exported / f"net{request.param}") as session:
        yield lambda image: dict(
            zip(
                OPERATIONS,
                session.run(np.array([image], np.float32)).reshape(-1, 4),
                strict=True,
            )
        )


@pytest.mark.parametrize("image", [[0, 1, 1e-8, 3], [3, 0, 4, 0]])
def test_torch_gives_the_same_digits(outputs, image):
    want = Together()(torch.tensor([image], dtype=torch.float32)).numpy()
    np.testing.assert_allclose(np.concatenate(list(outputs(image).values())), want[0], rtol=1e-5)


def test_a_guarded_division_stays_guarded(outputs):
    for image, unit in (([0] * 4, [0] * 4), ([3, 0, 4, 0], [0.6, 0, 0.8, 0])):
        found = outputs(image)
        for eps in GUARDS:
            np.testing.assert_allclose(found[f"guard {eps}"], unit, atol=1e-5)


def test_what_is_nearly_idle_is_done(outputs):
    one = outputs([1] * 4)
    assert one["multiply"].min() > 1 > one["divide"].max()
    assert one["up"].min() > 1 > one["down"].max()


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
