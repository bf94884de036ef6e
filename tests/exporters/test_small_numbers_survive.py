"""Constants near 0 and 1 in every place where an optimiser could take them for none."""

import numpy as np
import pytest
import torch
from torch import nn

import sepdeploy as sd

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
