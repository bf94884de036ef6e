"""The spectral report: against dense decompositions, and against what networks really do."""

import json
import math
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sepdeploy.api import export, inspect
from sepdeploy.codec import dump
from sepdeploy.errors import BadInput
from sepdeploy.layers import KronLinear, LowRankConv2d, LowRankLinear
from sepdeploy.models import create, save, wrap
from sepdeploy.models.analysis.layer_spectra import LayerSpectra
from sepdeploy.models.analysis.layer_table import layer_records
from sepdeploy.models.analysis.lipschitz import lipschitz_bound
from sepdeploy.records import InputSpec, PartOf
from sepdeploy.workflows.factored import merge_factored


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(4)


def randomised(net):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.3)
    return net


def extremes(layer, thorough=True):
    return LayerSpectra([layer], thorough=thorough).of(layer)


@pytest.mark.parametrize(
    ("layer", "rank"),
    [
        (KronLinear((4, 6), (5, 7)), 24),
        (KronLinear((3, 2, 4), (2, 3, 2)), 2 * 2 * 2),
        (KronLinear((4, 5), (5, 4), terms=3), 20),
        (LowRankLinear(30, 20, 6), 6),
        (nn.Linear(30, 20), 20),
        (nn.Conv2d(9, 5, 1), 5),
    ],
    ids=str,
)
def test_extremes_are_those_of_the_dense_matrix(layer, rank):
    randomised(layer)
    dense = layer.dense_weight() if hasattr(layer, "dense_weight") else layer.weight
    sigma = np.linalg.svd(dense.detach().double().numpy().reshape(len(dense), -1), compute_uv=False)
    found = extremes(layer)
    assert found.sigma_max == pytest.approx(sigma[0], rel=1e-5)
    assert found.sigma_min == pytest.approx(sigma[rank - 1], rel=1e-5)
    assert found.condition_number == pytest.approx(sigma[0] / sigma[rank - 1], rel=1e-5)


def test_a_large_kronecker_layer_is_known_by_its_factors(monkeypatch):
    layer = randomised(KronLinear((64, 64), (64, 64)))

    def never(*_):
        raise AssertionError("the dense matrix has 16 million entries")

    monkeypatch.setattr(KronLinear, "dense_weight", never)
    found = extremes(layer)
    one, two = (np.linalg.svd(f[0].detach().double().numpy(), compute_uv=False)
                for f in layer.factors)  # fmt: skip
    assert found.sigma_min == pytest.approx(one[-1] * two[-1], rel=1e-5)


@pytest.mark.slow
def test_sums_of_large_terms_have_a_norm_and_no_smallest_value():
    layer = randomised(KronLinear((40, 30), (40, 30), terms=2))  # 1200 features
    found = extremes(layer)
    expected = torch.linalg.matrix_norm(layer.dense_weight().detach().double(), 2)
    assert found.sigma_max == pytest.approx(float(expected), rel=1e-5)
    assert found.sigma_min is None
    assert found.condition_number is None
    assert extremes(layer, thorough=False).sigma_max is None


def test_a_large_dense_layer_has_its_norm():
    layer = nn.Linear(1100, 1200)
    found = extremes(layer)
    assert found.sigma_max == pytest.approx(
        float(torch.linalg.matrix_norm(layer.weight.detach(), 2)), rel=1e-4
    )
    assert found.sigma_min is None
    assert extremes(layer, thorough=False).sigma_max is None


def test_singular_broken_and_unusual_layers():
    layer = KronLinear((2, 2), (2, 2))
    nn.init.zeros_(layer.factors[0])
    assert extremes(layer).sigma_min == 0
    assert extremes(layer).condition_number is None  # infinite; JSON has no such number
    broken = nn.Linear(3, 3)
    nn.init.constant_(broken.weight, math.nan)
    assert extremes(broken).sigma_max is None
    assert extremes(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")).sigma_max is None


NETWORKS = {
    "mlp": lambda: create("mlp", InputSpec((1, 6, 6), (0.1,), (0.25,)), 5, hidden=(24, 12),
                          structure={"fc1": "kron", "fc2": "lowrank:4"}),
    "lenet": lambda: create("lenet", InputSpec((1, 12, 12)), 5, structure="kron*2"),
    "foreign": lambda: wrap(nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.LeakyReLU(0.1),
        nn.MaxPool2d(2), nn.AvgPool2d(3, 1), LowRankConv2d(4, 6, (2, 2), (3, 2)), nn.Tanh(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(6, 3)), (2, 10, 10)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_no_network_stretches_more_than_its_bound(name):
    model = NETWORKS[name]()
    randomised(model.net)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.1, 2)
    model.eval()
    records = layer_records(model.net, model.input, thorough=True)
    found = lipschitz_bound(model, {r.name: r.sigma_max for r in records})
    assert found.bound == pytest.approx(found.input * math.prod(found.gains.values()))
    stretches = []
    for _ in range(20):
        x = torch.rand(1, *model.input.shape, requires_grad=True)
        jacobian = torch.autograd.functional.jacobian(model, x).reshape(-1, x.numel())
        stretches.append(float(torch.linalg.matrix_norm(jacobian, 2)))
    assert 0.002 * found.bound < max(stretches) <= found.bound


def test_the_bound_of_a_linear_network_is_its_norm():
    # orthogonal layers lose nothing to the product
    net = nn.Sequential(KronLinear((3, 4), (3, 4)), nn.Identity(), nn.Linear(12, 12))
    nn.init.orthogonal_(net[2].weight)
    model = wrap(nn.Sequential(nn.Flatten(), *net), (1, 3, 4), std=(0.5,))
    records = model.layer_records()
    bound = lipschitz_bound(model, {r.name: r.sigma_max for r in records}).bound
    x = torch.rand(1, 1, 3, 4)
    jacobian = torch.autograd.functional.jacobian(model, x).reshape(-1, 12)
    assert bound == pytest.approx(float(torch.linalg.matrix_norm(jacobian, 2)), rel=1e-5)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.inner(x)


class Around(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Tripled(nn.ReLU):
    def forward(self, x):
        return 3 * super().forward(x)


def circular(kernel, padding, stride=1):
    return nn.Conv2d(1, 1, kernel, stride=stride, padding=padding, padding_mode="circular")


def test_a_layer_applied_twice_counts_twice():
    twice = nn.Linear(4, 4)
    model = wrap(nn.Sequential(nn.Flatten(), twice, nn.ReLU(), twice).eval(), (1, 2, 2))
    found = lipschitz_bound(model, {r.name: r.sigma_max for r in model.layer_records()})
    norm = float(torch.linalg.matrix_norm(twice.weight.detach(), 2))
    assert found.bound == pytest.approx(norm**2, rel=1e-5)


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Flatten(), Around(nn.Linear(4, 4))),
        nn.Sequential(nn.Flatten(), Tripled(), nn.Linear(4, 2)),
        nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.Flatten()),
        nn.Sequential(circular(1, 2), nn.Flatten()),
        nn.Sequential(circular(2, 1, stride=2), nn.Flatten()),
        nn.Sequential(nn.Flatten(), Residual(), nn.Linear(4, 2)),
        nn.Sequential(nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 2)),
        nn.Sequential(nn.MaxPool2d(2, 1, 1), nn.Flatten(), nn.Linear(9, 2)),
        nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9, 2)),
        nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(4, 2)),
    ],
    ids=[
        "own chain",
        "own activation",
        "cut mean pool",
        "larger circle",
        "strided circle",
        "residual",
        "layer norm",
        "overlapping pool",
        "enlarging pool",
        "batch statistics",
    ],
)
def test_networks_without_a_bound(net):
    model = wrap(net.eval(), (1, 2, 2))
    found = lipschitz_bound(model, {r.name: r.sigma_max for r in model.layer_records()})
    assert found.bound is None
    assert found.reason


def test_attention_has_no_bound():
    model = create("vit_tiny", InputSpec((3, 8, 8)), 4)
    assert lipschitz_bound(model, {}).bound is None


@pytest.fixture
def factored(tmp_path, monkeypatch):
    def make(input=None, classes=5):
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, classes)
        )

    monkeypatch.setattr("sepdeploy.models.factory.find_factory", lambda arch: make)
    model = wrap(make(), (1, 8, 8))
    model.arch = "mine:make"
    model.net[0] = LowRankConv2d.from_dense(model.net[0], (1, 3))
    save(model.eval(), tmp_path / "m.pt")
    return model, tmp_path


def test_a_factored_convolution_is_one_layer(factored):
    model, folder = factored
    report = inspect(folder / "m.pt", arch=model.arch)
    layer, head = report.layers
    assert (layer.name, layer.structure, layer.spec["ranks"]) == ("0", "lowrank", [1, 3])
    assert layer.params == sum(p.numel() for p in model.net[0].parameters())
    assert layer.params_dense == 8 * 9 + 8
    assert report.total.params == model.params
    matrix = np.linalg.svd(
        model.net[0](torch.eye(64).reshape(64, 1, 8, 8)).detach().reshape(64, -1).numpy()
        - model.net[0](torch.zeros(1, 1, 8, 8)).detach().reshape(1, -1).numpy(),
        compute_uv=False,
    )
    assert matrix[0] <= layer.sigma_max <= 2 * matrix[0]
    assert report.stretch.bound == pytest.approx(layer.sigma_max * head.sigma_max)
    assert report.stretch.so_far == pytest.approx({"0": layer.sigma_max, "3": report.stretch.bound})
    json.loads(dump(report))


@pytest.mark.slow
def test_plain_convolutions_of_such_names_stay_three_layers(tmp_path, monkeypatch):
    named = {
        "reduce": nn.Conv2d(1, 2, 1, bias=False), "between": nn.ReLU(),
        "core": nn.Conv2d(2, 3, 3, bias=False), "after": nn.ReLU(), "expand": nn.Conv2d(3, 4, 1),
        "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(),
    }  # fmt: skip
    net = nn.Sequential(OrderedDict(named))
    monkeypatch.setattr("sepdeploy.models.factory.find_factory", lambda arch: lambda: net)
    model = wrap(net, (1, 8, 8)).eval()
    model.arch, model.arch_kwargs = "mine:make", {}
    save(model, tmp_path / "m.pt")
    export(model, tmp_path / "m")
    for name in ("m.pt", "m.onnx", "m.tflite"):
        report = inspect(tmp_path / name, arch="mine:make" if name == "m.pt" else None)
        assert [r.name for r in report.layers] == ["reduce", "core", "expand"], name
        assert {r.structure for r in report.layers} == {"dense"}


def test_parts_of_an_unknown_structure_are_no_layer(factored):
    model, _ = factored
    *parts, head = model.layer_records()
    assert [r.name for r in merge_factored((*parts, head))[0]] == ["0", "3"]
    with pytest.raises(BadInput, match="other parts"):
        merge_factored(parts[1:])
    other = [replace(p, part_of=PartOf("0", "cpd")) for p in parts]
    with pytest.raises(BadInput, match="cpd"):
        merge_factored(other)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_exported_files_keep_their_spectrum(factored, format):
    model, folder = factored
    export(model, folder / "out", formats=(format,), eval_pack=False)
    report = inspect(folder / f"out.{format}")
    own = inspect(folder / "m.pt", arch=model.arch)
    assert [x.name for x in report.layers] == ["0", "3"]
    assert [x.sigma_max for x in report.layers] == pytest.approx([x.sigma_max for x in own.layers])
    assert report.stretch is None
