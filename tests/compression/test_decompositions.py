"""Ways to factor a kernel, against kernels that one of them fits exactly."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from sepdeploy.compression.decompositions import decompositions
from sepdeploy.models import create, save, wrap
from sepdeploy.records import InputSpec

rng = np.random.default_rng(0)


def draw(*shape):
    return rng.standard_normal(shape)


KERNELS = {  # of 16 × 12 × 3 × 3: each with at most a quarter of 1,728 weights
    "pdp": np.einsum("or,cr,rhw->ochw", draw(16, 4), draw(12, 4), draw(4, 3, 3)),
    "tucker-2": np.einsum("op,pqhw,cq->ochw", draw(16, 4), draw(4, 4, 3, 3), draw(12, 4)),
    "depthwise separable": np.einsum("co,chw->ochw", draw(12, 16), draw(12, 3, 3)),
    "shifts": np.einsum("hwo,hwc->ochw", draw(3, 3, 16), draw(3, 3, 12)),
    "rank": np.einsum("or,rchw->ochw", draw(16, 3), draw(3, 12, 3, 3)),
}


@pytest.mark.parametrize("view", KERNELS)
def test_a_kernel_of_its_own_kind_is_fitted(view):
    conv = nn.Conv2d(12, 16, 3)
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(KERNELS[view]))
    net = nn.Sequential(conv, nn.Conv2d(16, 16, 3, groups=16), nn.Flatten(), nn.LazyLinear(3))
    net(torch.zeros(1, 12, 8, 8))
    (found,) = decompositions(wrap(net, (12, 8, 8)))  # the depthwise one is left out
    assert (found.layer, found.kernel) == ("0", (16, 12, 3, 3))
    assert len(found.errors) == 7
    assert found.errors[view] < 0.02
    assert all(e is None or 0 <= e <= 1 for e in found.errors.values())
    if view == "rank":  # Eckart-Young for another view: what is no sum of 9 pairs is not fitted
        matrices = KERNELS[view].reshape(16, 12, 9).transpose(2, 0, 1)
        sigma = np.linalg.svd(matrices, compute_uv=False)
        lost = math.sqrt((sigma[:, 1:] ** 2).sum() / (sigma**2).sum())
        assert found.errors["shifts"] == pytest.approx(lost, rel=1e-5)


def test_the_command_shows_a_table_and_json(tmp_path, call):
    torch.manual_seed(0)
    save(create("lenet", InputSpec((1, 8, 8)), 10).eval(), tmp_path / "m.pt")
    got = call("inspect", tmp_path / "m.pt", "--decompositions")
    assert got.code == 0, got.err
    assert "depthwise separable" in got.out
    got = call("inspect", tmp_path / "m.pt", "--decompositions", "--json")
    layers = json.loads(got.out)["decompositions"]
    assert [x["layer"] for x in layers] == ["conv1", "conv2"]
    assert layers[1]["errors"]["tucker-2"] < 1
    save(create("mlp", InputSpec((64,)), 10, hidden=(8,)), tmp_path / "flat.pt")
    got = call("inspect", tmp_path / "flat.pt", "--decompositions")
    assert (got.code, "no convolution to factor" in got.err) == (2, True)
    got = call("inspect", tmp_path / "m.pt", "--json")
    assert "decompositions" not in json.loads(got.out)
