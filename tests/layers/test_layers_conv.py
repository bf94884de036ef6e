"""The low-rank convolution against the plain one it stands for."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sepdeploy.errors import BadInput
from sepdeploy.layers import LowRankConv2d
from sepdeploy.models import load, save, wrap


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(5)


GEOMETRIES = [
    {"padding": 1},
    {"stride": 2, "padding": (2, 1), "dilation": (2, 1)},
    {"padding": "same", "padding_mode": "reflect"},
    {"padding": 1, "bias": False},
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_full_ranks_reproduce_the_convolution(geometry):
    conv = nn.Conv2d(6, 5, 3, **geometry)
    layer = LowRankConv2d.from_dense(conv, (6, 5))
    x = torch.randn(2, 6, 9, 8)
    assert torch.allclose(layer(x), conv(x), atol=1e-5)
    assert layer.projection_error < 1e-6


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_layer_is_the_convolution_with_its_dense_weight(geometry):
    conv = nn.Conv2d(6, 5, 3, **geometry)
    layer = LowRankConv2d.from_dense(conv, (3, 2))
    dense = nn.Conv2d(6, 5, 3, **geometry)
    with torch.no_grad():
        dense.weight.copy_(layer.dense_weight())
        if conv.bias is not None:
            dense.bias.copy_(conv.bias)  # added once
    x = torch.randn(2, 6, 9, 8)
    assert torch.allclose(layer(x), dense(x), atol=1e-5)
    error = ((layer.dense_weight() - conv.weight).norm() / conv.weight.norm()).detach()
    assert layer.projection_error == pytest.approx(float(error), rel=1e-4)


def test_a_low_rank_kernel_is_found_exactly():
    V, S, U = torch.randn(8, 2), torch.randn(2, 3, 3, 3), torch.randn(7, 3)
    conv = nn.Conv2d(7, 8, 3)
    with torch.no_grad():
        conv.weight.copy_(torch.einsum("op,pqhw,cq->ochw", V, S, U))
    layer = LowRankConv2d.from_dense(conv, (3, 2))
    assert layer.projection_error < 1e-5
    assert torch.allclose(layer.dense_weight(), conv.weight, atol=1e-4)
    U, V = layer.reduce.weight[:, :, 0, 0], layer.expand.weight[:, :, 0, 0]
    assert torch.allclose(U @ U.T, torch.eye(3), atol=1e-6)
    assert torch.allclose(V.T @ V, torch.eye(2), atol=1e-6)


def test_no_rank_one_kernel_is_closer():
    conv = nn.Conv2d(4, 3, 3)
    layer = LowRankConv2d.from_dense(conv, (1, 1))
    found = (layer.dense_weight() - conv.weight).norm()
    for _ in range(50):
        v, u = (F.normalize(torch.randn(n), dim=0) for n in (3, 4))
        core = torch.einsum("o,ochw,c->hw", v, conv.weight, u)
        other = torch.einsum("o,hw,c->ochw", v, core, u)
        assert found <= (other - conv.weight).norm() + 1e-6


@pytest.mark.parametrize("ranks", [(0, 2), (7, 2), (2, 6), (2, 0)])
def test_ranks_outside_the_channels(ranks):
    with pytest.raises(BadInput, match="outside"):
        LowRankConv2d.like(nn.Conv2d(6, 5, 3), ranks)


def test_grouped_convolutions_are_refused():
    with pytest.raises(BadInput, match="grouped"):
        LowRankConv2d.from_dense(nn.Conv2d(6, 6, 3, groups=2), (2, 2))


def test_a_kernel_that_is_not_finite():
    conv = nn.Conv2d(3, 3, 3)
    nn.init.constant_(conv.weight, float("nan"))
    with pytest.raises(BadInput, match="NaN"):
        LowRankConv2d.from_dense(conv, (1, 1))


def factory(input, classes):
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 64, classes))


@pytest.fixture
def saved(tmp_path):
    net = factory(None, 4)
    model = wrap(net, (1, 8, 8))
    model.arch = f"{__name__}:factory"
    dense = model.params
    net[0] = LowRankConv2d.from_dense(net[0], (1, 3))
    assert model.params_dense == dense
    save(model, tmp_path / "m.pt")
    return model.eval(), tmp_path / "m.pt"


def test_saved_and_loaded(saved, monkeypatch):
    model, path = saved
    monkeypatch.setattr("sepdeploy.models.factory.find_factory", lambda arch: factory)
    again = load(path, arch=model.arch)
    x = torch.rand(2, 1, 8, 8)
    assert torch.allclose(again(x), model(x), atol=1e-6)
    assert (again.params, again.params_dense) == (model.params, model.params_dense)


def test_counts_are_booked_once(saved):
    model, _ = saved
    records = {r.name: r for r in model.layer_records()}
    assert sum(r.params for r in records.values()) == model.params
    assert sum(r.params_dense for r in records.values()) == model.params_dense
    assert records["0.core"].macs_dense == 64 * 9 * 8
    assert sum(records[f"0.{p}"].macs for p in ("reduce", "core", "expand")) == 64 * (1 + 27 + 24)


@pytest.mark.parametrize(
    "table",
    [{"0": [1]}, {"0": [9, 1]}, {"1": [1, 1]}, {"x": [1, 1]}, {"0": [1, True]}, {"0": "1,1"},
     {"0": [1 << 40, 1]}, {"": [1, 1]}],
)  # fmt: skip
def test_forged_ranks(saved, monkeypatch, table):
    from sepdeploy.models import read_tensor_file, write_tensor_file

    model, path = saved
    monkeypatch.setattr("sepdeploy.models.factory.find_factory", lambda arch: factory)
    write_tensor_file(read_tensor_file(path) | {"convolutions": table}, path)
    with pytest.raises(BadInput):
        load(path, arch=model.arch)
