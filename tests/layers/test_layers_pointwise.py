"""1×1 and grouped convolutions in every family that takes them, against the plain ones."""

import numpy as np
import pytest
import torch
from torch import nn

from sepdeploy.errors import BadInput
from sepdeploy.layers import CONVOLUTION_LAYERS, convolution_like, project_convolution
from sepdeploy.models.analysis.layer_table import layer_records
from sepdeploy.records import InputSpec
from sepdeploy.structures import CONVOLUTIONS
from sepdeploy.workflows.factored import merge_factored

CASES = [
    ((8, 12, 1), {"bias": False}, "lowrank:3"),
    ((8, 12, 1), {"stride": 2}, "lowrank:3"),
    ((8, 12, 1), {}, "lowrank:4x6"),
    ((8, 12, 1), {"groups": 4, "stride": 2}, "lowrank:1"),
    ((8, 12, 3), {"groups": 2, "padding": 1, "stride": 2}, "lowrank:2x3"),
    ((8, 12, 3), {"groups": 2, "padding": 1, "padding_mode": "circular"}, "lowrank:3"),
    ((8, 12, 1), {}, "kron:2x4-3x4"),
    ((8, 12, 1), {"stride": 2, "bias": False}, "kron:4x2-4x3*5"),
    ((8, 12, 3), {"padding": (1, 0), "stride": (1, 2)}, "kron:2x4-3x4*2"),
    ((8, 12, 3), {"padding": 1, "stride": 2}, "pdp:9"),
    ((8, 12, (1, 3)), {"padding": "same", "padding_mode": "reflect", "bias": False}, "pdp:5"),
    ((8, 12, 5), {"dilation": 2, "padding": "same", "padding_mode": "reflect"}, "kron:8x1-4x3*3"),
]


@pytest.mark.parametrize(("sizes", "geometry", "text"), CASES, ids=str)
def test_a_layer_is_the_plain_one_of_its_dense_weight(sizes, geometry, text):
    torch.manual_seed(0)
    plain = nn.Conv2d(*sizes, **geometry)
    net = nn.Sequential(project_convolution(plain, text))
    layer = net[0]
    W = layer.dense_weight().detach()
    error = float((W - plain.weight.detach()).norm() / plain.weight.detach().norm())
    assert layer.projection_error == pytest.approx(error, abs=1e-5)
    x = torch.randn(3, sizes[0], 11, 10)
    with torch.no_grad():
        plain.weight.copy_(W)
        assert torch.allclose(layer(x), plain(x), atol=1e-5)
        y = plain(x[:1])
    again = convolution_like(plain, layer.spec.saved)
    assert again is not None
    assert again.spec == layer.spec
    assert again.state_dict().keys() == layer.state_dict().keys()
    bias = plain.bias is not None
    records = layer_records(net, InputSpec((sizes[0], 11, 10)))
    (whole,), _ = merge_factored(records)
    assert whole.spec == layer.spec.to_json()
    assert whole.params == layer.spec.params(bias) == sum(p.numel() for p in net.parameters())
    assert whole.params_dense == sum(p.numel() for p in plain.parameters())
    places = y.shape[2:].numel()
    assert whole.macs == layer.spec.macs_at(110, places)
    assert whole.macs_dense == places * plain.weight.numel()


def test_a_rank_of_a_pointwise_convolution_is_the_best_there_is():
    torch.manual_seed(0)
    plain = nn.Conv2d(10, 14, 1)
    sigma = np.linalg.svd(plain.weight.detach().numpy()[:, :, 0, 0])[1]
    for rank in (1, 4, 10):
        layer = project_convolution(plain, f"lowrank:{rank}")
        lost = np.linalg.norm(sigma[rank:]) / np.linalg.norm(sigma)
        assert layer.projection_error == pytest.approx(lost, abs=1e-6)


def test_a_kronecker_kernel_is_found_exactly():
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((2, 3, 2)), rng.standard_normal((2, 4, 2, 3, 3))
    W = sum(
        np.stack([[np.kron(a, b[:, :, h, w]) for w in range(3)] for h in range(3)])
        for a, b in zip(A, B, strict=True)
    )  # (3, 3, 12, 4)
    plain = nn.Conv2d(4, 12, 3)
    with torch.no_grad():
        plain.weight.copy_(torch.from_numpy(W.transpose(2, 3, 0, 1)))
    assert project_convolution(plain, "kron:2x2-3x4*2").projection_error < 1e-6
    assert project_convolution(plain, "kron:2x2-3x4").projection_error > 0.1


def test_components_of_pdp_are_found_and_alike():
    """A kernel that is a sum of three components, far from each other in size."""
    rng = np.random.default_rng(0)
    a, b, d = (rng.standard_normal((n, 3)) for n in (10, 7, 9))
    plain = nn.Conv2d(7, 10, 3)
    with torch.no_grad():
        W = np.einsum("or,cr,tr->oct", a * [100, 1, 0.1], b, d).reshape(plain.weight.shape)
        plain.weight.copy_(torch.from_numpy(W))
    layer = project_convolution(plain, "pdp:3")
    assert layer.projection_error < 1e-4
    norms = [
        layer.before.weight.flatten(1).norm(dim=1),
        layer.taps.weight.flatten(1).norm(dim=1),
        layer.after.weight.flatten(1).norm(dim=0),
    ]
    for norm in norms[1:]:
        assert torch.allclose(norm, norms[0], rtol=1e-4)
    assert project_convolution(plain, "pdp:2").projection_error > 1e-4


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("kron", (12, 20, 1)), ("kron", (6, 8, 3)), ("lowrank", (12, 20, 1)),
        ("lowrank", (6, 8, 3)), ("pdp", (6, 8, 3)),
    ],
)  # fmt: skip
def test_the_error_of_every_form_is_that_of_its_projection(family, sizes):
    torch.manual_seed(0)
    plain = nn.Conv2d(*sizes)
    forms = list(CONVOLUTION_LAYERS[family].forms(plain))
    assert len(forms) > 5
    for spec, lost in forms[:: max(1, len(forms) // 6)]:
        found = project_convolution(plain, spec.text)
        assert found.spec == spec
        assert lost - 0.1 <= found.projection_error**2 <= lost + 1e-3


@pytest.mark.parametrize(
    ("groups", "text", "said"),
    [
        (2, "kron:2x4-2x4", "grouped"), (2, "debut", "grouped"), (2, "lowrank:5", "outside"),
        (1, "kron:2x3-2x4", "maps"), (1, "kron:2x2x2-2x2x2", "two modes"),
        (1, "kron+sumbias", "one bias"), (1, "lowrank:9", "outside"), (1, "pdp:2", "1×1"),
        (2, "pdp:2", "grouped"), (1, "pdp:x", "number"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(groups, text, said):
    with pytest.raises(BadInput, match=said):
        project_convolution(nn.Conv2d(8, 8, 1, groups=groups), text)


def test_every_family_refuses_a_kernel_that_is_not_finite():
    for text in ("lowrank:2", "kron:2x4-2x4"):
        plain = nn.Conv2d(8, 8, 1)
        nn.init.constant_(plain.weight, float("nan"))
        with pytest.raises(BadInput, match="NaN"):
            project_convolution(plain, text)
    assert {"kron", "lowrank"} < set(CONVOLUTIONS)
