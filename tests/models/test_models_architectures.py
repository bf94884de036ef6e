import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sepdeploy.errors import BadInput
from sepdeploy.layers import KronLinear, LowRankLinear, project_linear
from sepdeploy.models import ARCHITECTURES, Model, create, wrap
from sepdeploy.models.factory import replace_module
from sepdeploy.records import InputSpec
from sepdeploy.structures import KronSpec, LowRankSpec


def test_published_lenet_size(mnist):
    model = create("lenet", mnist, 10)
    assert model.params == model.params_dense == 61_482


@pytest.mark.parametrize("structure", ["kron", "kron:aligned"])
def test_published_factors_of_the_mlp(structure):
    # 3072 → 2048 → 1024 → 1024 → 256 → 10 with the factor shapes of the reference: 15 882 weights
    # together with the head's bias, Kronecker biases left out; all of full rank
    net = create("mlp", InputSpec((3, 32, 32)), 10, structure, hidden=(2048, 1024, 1024, 256)).net
    specs = {name: layer.spec for name, layer in net.named_children() if name != "head"}
    assert specs == {
        "fc1": KronSpec((96, 32), (64, 32)),
        "fc2": KronSpec((64, 32), (32, 32)),
        "fc3": KronSpec((32, 32), (32, 32)),
        "fc4": KronSpec((32, 32), (16, 16)),
    }
    weights = {name: sum(f.numel() for f in layer.factors) for name, layer in net.named_children()
               if name != "head"}  # fmt: skip
    assert weights == {"fc1": 7168, "fc2": 3072, "fc3": 2048, "fc4": 1024}
    assert sum(weights.values()) + sum(p.numel() for p in net.head.parameters()) == 15_882


def test_the_nets_of_the_accuracy_bar(mnist):
    dense = create("mlp", mnist, 10)
    assert dense.params == 785 * 1024 + 1025 * 1024 + 1025 * 10
    wide = create("mlp", mnist, 10, "kron", hidden=(4096, 4096))
    assert wide.params == 2 * 28 * 64 + 4096 + 2 * 64 * 64 + 4096 + 40_970
    assert wide.params_dense == 785 * 4096 + 4097 * 4096 + 40_970
    assert create("mlp", mnist, 10, "kron").params < 17_000


def test_an_image_keeps_its_axes_and_hidden_layers_their_shape(mnist, cifar):
    net = create("mlp", mnist, 10, "kron").net
    assert net.get_submodule("fc1").spec == KronSpec((28, 28), (32, 32))
    assert net.get_submodule("fc2").spec == KronSpec((32, 32), (32, 32))
    assert isinstance(net.get_submodule("head"), nn.Linear)
    assert create("mlp", cifar, 10, "kron").net.get_submodule("fc1").spec.in_shape == (96, 32)
    assert create("lenet", mnist, 10, "kron").net.get_submodule("fc1").spec.in_shape == (16, 25)


def test_rows_and_columns_are_treated_by_their_own_factor(mnist):
    model = create("mlp", mnist, 10, {"fc1": "kron"}, hidden=(16,)).eval()
    A, B = (f[0] for f in model.net.get_submodule("fc1").factors())
    image = torch.rand(2, 1, 28, 28)
    hidden = F.relu(A @ image[:, 0] @ B.T).flatten(1)
    head = model.net.get_submodule("head")
    assert torch.allclose(model(image), hidden @ head.weight.T + head.bias, atol=1e-5)


@pytest.mark.parametrize(
    ("arch", "structure", "options"),
    [
        ("mlp", None, {}),
        ("mlp", "kron", {"hidden": [32]}),
        ("mlp", "kron*2", {"hidden": [30, 7, 64]}),
        ("mlp", "lowrank:3", {"hidden": [16, 16]}),
        ("mlp", {"fc1": "kron:4x4x4-2x3x4", "head": "kron:4x6-2x5"}, {"hidden": [24]}),
        ("mlp", {"*": "kron"}, {"hidden": [24]}),
        ("mlp", None, {"hidden": []}),
        ("lenet", None, {}),
        ("lenet", "kron", {}),
        ("lenet", {"fc*": "lowrank:4", "head": "kron"}, {}),
    ],
)
def test_every_combination_gives_logits_and_learns(digit, arch, structure, options):
    torch.manual_seed(0)
    model = create(arch, digit, 10, structure, **options)
    x = torch.rand(5, 1, 8, 8)
    logits = model(x)
    assert logits.shape == (5, 10)
    assert model.classes == 10
    flat = model(x.flatten(1))
    assert torch.allclose(flat, logits, atol=1e-6)
    F.cross_entropy(logits, torch.arange(5)).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_structured_layers_by_name(mnist):
    model = create("mlp", mnist, 10, {"fc1": "kron", "fc2": "lowrank:8"})
    found = model.structured_layers()
    assert list(found) == ["fc1", "fc2"]
    assert isinstance(found["fc1"], KronLinear)
    assert isinstance(found["fc2"], LowRankLinear)
    assert create("mlp", mnist, 10).structured_layers() == {}


def test_small_and_large_images_of_lenet(cifar):
    for shape in ((1, 4, 4), (1, 8, 8), (1, 16, 15), (3, 32, 32), (2, 64, 48)):
        model = create("lenet", InputSpec(shape), 7)
        assert model(torch.rand(2, *shape)).shape == (2, 7)


# --- normalisation ----------------------------------------------------------------------------


def test_normalisation_is_inside(cifar):
    torch.manual_seed(0)
    plain = create("lenet", InputSpec((3, 32, 32)), 10).eval()
    model = Model(plain.net, cifar).eval()
    x = torch.rand(2, 3, 32, 32)
    mean = torch.tensor(cifar.mean).reshape(3, 1, 1)
    std = torch.tensor(cifar.std).reshape(3, 1, 1)
    assert torch.allclose(model(x), plain((x - mean) / std), atol=1e-6)
    assert not any(key in ("mean", "std") for key in model.state_dict())


@pytest.mark.parametrize(("mean", "std"), [((0.1, 0.2), (1.0,)), ((0.1,), (1.0, 1.0))])
def test_normalisation_of_another_channel_count(mean, std):
    with pytest.raises(BadInput, match="channels"):
        wrap(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (3, 2, 2), mean=mean, std=std)


def test_inputs_of_other_shapes_are_refused(digit):
    model = create("mlp", digit, 10, hidden=(8,))
    for shape in ((2, 8, 8), (2, 1, 8, 9), (2, 63), (64,)):
        with pytest.raises(BadInput, match="expected"):
            model(torch.zeros(shape))


# --- names that do not exist ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("mlpp", 10, None, {}), "unknown architecture 'mlpp'; closest: mlp"),
        (("mlp", 10, None, {"hiden": (3,)}), "unknown option of mlp 'hiden'; closest: hidden"),
        (("mlp", 10, None, {"input": 3}), "unknown option|argument"),
        (("mlp", 10, {"fc9": "kron"}, {}), "unknown layer 'fc9'; closest: fc"),
        (("mlp", 10, {"fc1": "krom"}, {}), "unknown structure 'krom'; closest: kron"),
        (("mlp", 10, {"fc1": 3}, {}), "must be a string"),
        (("mlp", 10, ["kron"], {}), "string or a table"),
        (("mlp", 0, None, {}), "classes"),
        (("mlp", True, None, {}), "classes"),
        (("mlp", 10, None, {"hidden": 1024}), "list of layer widths"),
        (("mlp", 10, None, {"hidden": (8, 0)}), "hidden width"),
        (("mlp", 10, None, {"hidden": ("8",)}), "hidden width"),
        (("mlp", 10, None, {"hidden": [4] * 2000}), "list of layer widths"),
        (("lenet", 10, "lowrank:500", {}), "rank 500"),
    ],
)
def test_nonsense_is_one_line(digit, arguments, match):
    arch, classes, structure, options = arguments
    if "input" in options:
        with pytest.raises(TypeError, match="multiple values"):
            create(arch, digit, classes, structure, **options)
        return
    with pytest.raises(BadInput, match=match) as caught:
        create(arch, digit, classes, structure, **options)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("shape", [(64,), (1, 3, 8), (8, 8)])
def test_lenet_needs_an_image(shape):
    with pytest.raises(BadInput, match="at least 4x4"):
        create("lenet", InputSpec(shape), 10)


# --- layer records ----------------------------------------------------------------------------


def test_records_of_lenet(mnist):
    records = {r.name: r for r in create("lenet", mnist, 10, {"fc1": "kron"}).layer_records()}
    assert list(records) == ["conv1", "conv2", "fc1", "fc2", "head"]
    assert records["conv1"].macs == 26 * 26 * 8 * 9
    assert records["conv2"].macs == 11 * 11 * 16 * 8 * 9
    assert records["conv1"].params == 8 * 9 + 8
    assert records["conv1"].factors == ((8, 1, 3, 3),)
    kron = records["fc1"]
    assert kron.structure == "kron"
    assert kron.spec == KronSpec((16, 25), (8, 16)).to_json()
    assert kron.macs == KronSpec((16, 25), (8, 16)).macs
    assert kron.macs_dense == 400 * 128
    assert kron.params_dense == 401 * 128
    assert kron.condition_number == pytest.approx(1, abs=1e-3)
    model = create("lenet", mnist, 10, "kron")
    assert model.params == sum(r.params for r in model.layer_records())
    assert model.params_dense == sum(r.params_dense for r in model.layer_records()) == 61_482


class Tokens(nn.Module):
    """Linear layers on (B, T, features), one of them used twice, one never."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(12, 24)
        self.mix = KronLinear((4, 6), (4, 6), 2)
        self.low = LowRankLinear(24, 24, 3)
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        t = self.embed(x)
        t = self.low(self.mix(self.mix(t)))
        return self.head(t.mean(dim=1))


def test_records_of_tokens():
    model = wrap(Tokens(), (7, 12))
    records = {r.name: r for r in model.layer_records()}
    assert list(records) == ["embed", "mix", "low", "head", "unused"]
    assert records["embed"].macs == 7 * 12 * 24
    assert records["mix"].macs == 2 * 7 * KronSpec((4, 6), (4, 6), 2).macs
    assert records["mix"].macs_dense == 2 * 7 * 24 * 24
    assert records["mix"].condition_number is None
    assert records["low"].macs == 7 * LowRankSpec(24, 24, 3).macs
    assert records["low"].params == 3 * 48 + 24
    assert records["head"].macs == 24 * 5
    assert records["unused"].macs == 0
    assert model.params == sum(r.params for r in records.values())


def test_records_of_convolutions_by_a_counted_oracle():
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2),
        nn.Conv2d(8, 8, 3, groups=8, dilation=2, padding=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ConvTranspose2d(8, 6, 2, stride=2),
        nn.Flatten(),
        nn.Linear(6 * 10 * 10, 3),
    )
    model = wrap(net, (4, 10, 10))
    first, depthwise, up, head = model.layer_records()
    assert first.macs == 5 * 5 * 8 * (4 // 2) * 9
    assert depthwise.macs == 5 * 5 * 8 * 9
    assert depthwise.params == 8 * 9
    assert up.macs == 5 * 5 * 8 * 6 * 4
    assert up.params == 8 * 6 * 4 + 6
    assert head.macs == 600 * 3
    assert model.params == sum(p.numel() for p in net.parameters())


def test_counting_leaves_the_network_as_it_was():
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    net[2].train()
    net[3].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    wrap(net, (8,)).layer_records()
    assert net[2].training
    assert not net[3].training
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())


def test_a_single_layer_is_called_net():
    model = wrap(KronLinear((4, 4), (2, 3)), (16,))
    assert list(model.structured_layers()) == ["net"]
    assert [r.name for r in model.layer_records()] == ["net"]


def test_condition_numbers(digit):
    model = create("mlp", digit, 10, hidden=(2048,))
    wide, head = model.layer_records()
    oracle = torch.linalg.cond(model.net.get_submodule("head").weight.detach().double()).item()
    assert head.condition_number == pytest.approx(oracle, rel=1e-6)
    assert wide.condition_number is not None  # the smaller side counts
    big = wrap(nn.Sequential(nn.Linear(1100, 1100), nn.Linear(1100, 2)), (1100,))
    assert big.layer_records()[0].condition_number is None
    with torch.no_grad():
        model.net.get_submodule("head").weight[0, 0] = math.nan
    assert model.layer_records()[1].condition_number is None


# --- networks of the user ---------------------------------------------------------------------


class Gives(nn.Module):
    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward(self, x):
        return self.result(x)


@pytest.mark.parametrize(
    ("net", "shape", "match"),
    [
        (Gives(lambda x: (x, x)), (3,), "returns a tuple"),
        (Gives(lambda x: x), (2, 3), r"returns \(1, 2, 3\)"),
        (nn.Linear(4, 2), (3,), "does not take an input of shape"),
        (KronLinear((2, 2), (2, 2)), (3,), "expected"),
        (nn.Linear(4, 2), (0,), "positive"),
        (nn.Linear(4, 2), (1 << 30,), "more than"),
    ],
)
def test_wrapping_what_is_no_classifier(net, shape, match):
    with pytest.raises(BadInput, match=match) as caught:
        wrap(net, shape)
    assert "\n" not in caught.value.message


def test_projecting_layers_in_place(mnist):
    model = create("mlp", mnist, 10, hidden=(64,)).eval()
    x = torch.rand(3, 1, 28, 28)
    before = model(x)
    linear = model.net.get_submodule("fc1")
    replace_module(model.net, "fc1", project_linear(linear, LowRankSpec(784, 64, 64)))
    assert torch.allclose(model(x), before, atol=1e-4)
    assert list(model.structured_layers()) == ["fc1"]
    with pytest.raises(BadInput, match="single layer"):
        replace_module(model.net, "", linear)


def test_every_architecture_is_listed():
    assert set(ARCHITECTURES) >= {"mlp", "lenet"}
