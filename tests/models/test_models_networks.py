"""VGG, ResNet and ViT: published sizes, structure maps, shapes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sepdeploy.errors import BadInput
from sepdeploy.layers import KronLinear, LowRankLinear
from sepdeploy.models import create, load, save
from sepdeploy.models.architectures.shift import ShiftConv2d
from sepdeploy.records import InputSpec
from sepdeploy.structures import KronSpec, LowRankSpec

IMAGENET = InputSpec((3, 224, 224))
CIFAR = InputSpec((3, 32, 32))
# Scaled down until a forward pass costs milliseconds.
SMALL = {
    "vgg11": {"base": 4, "hidden": (32, 32)},
    "vgg16": {"base": 4, "hidden": (32, 32)},
    "vgg16_bn": {"base": 4, "hidden": (32, 32)},
    "resnet18": {"base": 4},
    "resnet20": {"base": 4},
    "resnet56": {"base": 2},
    "densenet40": {"growth": 2},
    "mobilenet_v2": {"width": 0.1},
    "shiftresnet20": {"base": 4},
    "vit_tiny": {"width": 12, "depth": 2, "patch": 8},
    "vit_b_16": {"width": 12, "depth": 2, "patch": 8, "heads": 2},
}


def counted(arch, input, classes, structure=None, **options):
    with torch.device("meta"):  # nothing is allocated
        return create(arch, input, classes, structure, **options)


@pytest.mark.parametrize(
    ("arch", "params"),
    [
        ("vgg11", 132_863_336),
        ("vgg16", 138_357_544),
        ("vgg16_bn", 138_365_992),
        ("resnet18", 11_689_512),
        ("mobilenet_v2", 3_504_872),
        ("vit_b_16", 86_567_656),
        ("vit_tiny", 5_717_416),
    ],
)
def test_published_sizes_on_imagenet(arch, params):
    model = counted(arch, IMAGENET, 1000)
    assert model.params == model.params_dense == params


@pytest.mark.parametrize(
    ("arch", "options", "params"),
    [
        ("resnet20", {}, 269_722),
        ("resnet20", {"shortcut": "conv"}, 272_474),
        ("resnet18", {}, 11_173_962),
        ("resnet56", {}, 853_018),
        ("densenet40", {}, 1_059_298),
        ("shiftresnet20", {}, 95_642),
        ("shiftresnet56", {}, 294_554),
        ("shiftresnet110", {}, 592_922),
    ],
)
def test_published_sizes_on_cifar(arch, options, params):
    assert counted(arch, CIFAR, 10, **options).params == params


def test_vgg_heads_on_cifar():
    convolutions = 14_714_688 + 4224 * 2  # of VGG-16, and the scales and shifts of its norms
    ours = counted("vgg16_bn", CIFAR, 10)
    assert ours.params == convolutions + 2049 * 4096 + 4097 * 4096 + 40_970
    pruned = counted("vgg16_bn", CIFAR, 10, hidden=(1024, 256))
    assert pruned.params == convolutions + 2049 * 1024 + 1025 * 256 + 2570
    torchvision = counted("vgg16", CIFAR, 10, pool=7)
    assert torchvision.params == 138_357_544 - 990 * 4097


def test_published_factors_of_vgg():
    model = counted("vgg16_bn", CIFAR, 10, "kron")
    layers = model.structured_layers()
    assert layers["fc1"].spec == KronSpec((64, 32), (64, 64))
    assert layers["fc2"].spec == KronSpec((64, 64), (64, 64))
    assert sum(layer.spec.weight_params for layer in layers.values()) == 14_336
    assert isinstance(model.net.get_submodule("head"), nn.Linear)


def test_the_large_vgg_head_keeps_maps_and_places_apart():
    layers = counted("vgg16", IMAGENET, 1000, "kron*2").structured_layers()
    assert layers["fc1"].spec == KronSpec((512, 49), (64, 64), 2)


@pytest.mark.parametrize(("arch", "input"), [("vgg16", IMAGENET), ("vgg16_bn", CIFAR)])
def test_aligned_factors_of_vgg_have_full_rank(arch, input):
    layers = counted(arch, input, 10, "kron:aligned").structured_layers()
    assert [layer.spec.structural_rank for layer in layers.values()] == [
        min(layer.spec.in_features, 4096) for layer in layers.values()
    ]
    published = counted(arch, input, 10, "kron").structured_layers()["fc1"].spec
    assert published.structural_rank == (49 * 64 if arch == "vgg16" else 2048)


def test_published_factors_of_vit():
    model = counted("vit_b_16", InputSpec((3, 32, 32)), 10, "kron")
    layers = model.structured_layers()
    assert len(layers) == 72
    counts = {n: layers[f"blocks.3.{n}"].spec.weight_params for n in ("q", "k", "v", "out")}
    assert counts == dict.fromkeys(("q", "k", "v", "out"), 1536)
    assert [layers[f"blocks.3.fc{k}"].spec.weight_params for k in (1, 2)] == [3840, 3840]
    assert layers["blocks.3.q"].spec == KronSpec((32, 24), (24, 32))
    assert layers["blocks.3.fc1"].spec == KronSpec((16, 48), (48, 64))
    assert layers["blocks.3.fc2"].spec == KronSpec((64, 48), (48, 16))
    assert sum(layer.spec.weight_params for layer in layers.values()) == 165_888
    assert layers["blocks.0.out"].spec.structural_rank == 576


@pytest.mark.parametrize("choice", [("kron", "aligned"), ("kron:aligned", "paper")])
@pytest.mark.parametrize("arch", ["vit_tiny", "vit_b_16"])
def test_aligned_factors_of_vit_have_full_rank(arch, choice):
    structure, modes = choice
    layers = counted(arch, CIFAR, 10, structure, modes=modes).structured_layers()
    if arch == "vit_b_16":  # 1600 weights instead of 1536 for q, k, v and out
        assert layers["blocks.0.q"].spec.weight_params == 1600
    for layer in layers.values():
        assert layer.spec.structural_rank == min(layer.spec.in_features, layer.spec.out_features)


def test_a_width_without_published_factors():
    layers = counted("vit_tiny", CIFAR, 10, "kron", width=30, heads=3).structured_layers()
    assert layers["blocks.0.q"].spec == KronSpec((5, 6), (5, 6))


def test_structures_by_name_and_pattern():
    table = {"blocks.*.fc?": "lowrank:4", "blocks.1.q": "kron", "head": "kron"}
    model = counted("vit_tiny", CIFAR, 10, table, depth=2)
    layers = model.structured_layers()
    assert len(layers) == 6
    assert layers["blocks.0.fc2"].spec == LowRankSpec(768, 192, 4)
    assert layers["blocks.1.q"].spec == KronSpec((16, 12), (12, 16))
    assert isinstance(layers["head"], KronLinear)
    vgg = counted("vgg11", CIFAR, 10, {"fc2": "lowrank:7"}).structured_layers()
    assert list(vgg) == ["fc2"]
    assert isinstance(vgg["fc2"], LowRankLinear)
    resnet = counted("resnet18", CIFAR, 10, {"head": "kron"}).structured_layers()
    assert resnet["head"].spec == KronSpec((16, 32), (2, 5))


@pytest.mark.parametrize("arch", SMALL)
def test_every_network_learns_and_comes_back_from_its_file(arch, tmp_path):
    torch.manual_seed(0)
    structure = "kron" if arch.startswith(("vgg", "vit")) else {"head": "lowrank:2"}
    model = create(arch, CIFAR, 10, structure, **SMALL[arch])
    x = torch.rand(3, 3, 32, 32)
    F.cross_entropy(model(x), torch.arange(3)).backward()
    missing = [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ]
    assert missing == []
    model.eval()
    save(model, tmp_path / "m.pt")
    with torch.no_grad():
        logits = model(x)
        assert torch.allclose(load(tmp_path / "m.pt")(x), logits, atol=1e-5)
    assert logits.shape == (3, 10)
    assert logits.std() > 1e-3
    assert model.classes == 10
    assert sum(r.params for r in model.layer_records()) <= model.params


@pytest.mark.parametrize("arch", SMALL)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 48), (2, 72, 72)])
def test_images_of_other_sizes(arch, shape):
    options = SMALL[arch] | ({"patch": 4} if arch.startswith("vit") else {})
    model = create(arch, InputSpec(shape), 7, **options).eval()
    assert model(torch.rand(2, *shape)).shape == (2, 7)


def test_an_untrained_deep_network_keeps_its_signal():
    torch.manual_seed(0)
    for structure in (None, "kron"):
        model = create("vit_tiny", CIFAR, 10, structure, depth=12, width=48, patch=8).eval()
        y = model.net.get_submodule("blocks")(torch.randn(4, 17, 48))
        assert 0.3 < y.std() < 10


def test_a_shortcut_without_parameters():
    shortcut = counted("resnet20", CIFAR, 10).net.get_submodule("layer2.0.downsample")
    x = torch.rand(2, 16, 8, 8)
    y = shortcut(x)
    assert y.shape == (2, 32, 4, 4)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


@pytest.mark.parametrize(
    ("arch", "shape", "structure", "options", "match"),
    [
        ("vgg16", (784,), None, {}, "needs images"),
        ("vgg16", (3, 8, 8), None, {}, "at least 16x16"),
        ("vgg16", (3, 32, 32), None, {"pool": 0}, "pool"),
        ("vgg16", (3, 32, 32), None, {"base": -1}, "base"),
        ("vgg16", (3, 32, 32), None, {"hidden": 3}, "list of layer widths"),
        ("vgg16", (3, 32, 32), {"fc3": "kron"}, {}, "unknown layer 'fc3'; closest: fc"),
        ("vgg16", (3, 32, 32), {"features.0": "kron"}, {}, "unknown layer"),
        ("resnet18", (3, 32, 32), "kron", {}, "no linear layer besides its classifier"),
        ("resnet18", (3, 4, 4), None, {}, "at least 8x8"),
        ("resnet18", (3, 32, 32), None, {"stem": "big"}, "unknown stem 'big'"),
        ("resnet20", (3, 32, 32), None, {"shortcut": "zero"}, "unknown shortcut"),
        ("vit_tiny", (784,), None, {}, "needs images"),
        ("vit_tiny", (3, 32, 32), None, {"patch": 5}, "do not tile"),
        ("vit_tiny", (3, 32, 32), None, {"heads": 5}, "not a multiple"),
        ("vit_tiny", (3, 32, 32), None, {"modes": "papers"}, "unknown modes 'papers'"),
        ("vit_tiny", (3, 32, 32), {"blocks.12.q": "kron"}, {}, "unknown layer"),
        ("vit_tiny", (3, 32, 32), None, {"dept": 3}, "unknown option of vit_tiny"),
    ],
)
def test_options_that_make_no_sense(arch, shape, structure, options, match):
    with pytest.raises(BadInput, match=match):
        counted(arch, InputSpec(shape), 10, structure, **options)


@pytest.mark.parametrize(
    ("arch", "input", "classes", "macs"),
    [
        ("mobilenet_v2", IMAGENET, 1000, 300_774_272),
        ("resnet56", CIFAR, 10, 125_485_696),
        ("densenet40", CIFAR, 10, 282_917_328),
    ],
)
def test_published_multiply_accumulates(arch, input, classes, macs):
    model = counted(arch, input, classes)
    assert sum(record.macs for record in model.layer_records()) == macs


def test_a_shift_moves_every_map_by_its_place():
    x = torch.randn(2, 21, 5, 6)
    moved = ShiftConv2d(21)(x)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    places = [(h, w) for h in range(3) for w in range(3) if (h, w) != (1, 1)]
    order = [place for place in places for _ in range(2)] + [(1, 1)] * 5
    for channel, (h, w) in enumerate(order):
        assert torch.equal(moved[:, channel], padded[:, channel, h : h + 5, w : w + 6])
    assert not list(ShiftConv2d(21).parameters())
    assert not ShiftConv2d(21).state_dict()
