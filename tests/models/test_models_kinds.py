"""Modules as people have them: computed weights, other types, odd subclasses, wrappers."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import sepdeploy as sd
from sepdeploy.compression import compress_model, plan_compression
from sepdeploy.models.analysis.lipschitz import lipschitz_bound
from sepdeploy.models.computed_weights import with_plain_weights

SHAPE = (1, 8, 8)
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


class Symmetric(nn.Module):
    def forward(self, w):
        return w.triu() + w.triu(1).transpose(-1, -2)


class Mask(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.register_buffer("mask", weight.detach().abs() > 0.1)

    def forward(self, w):
        return w * self.mask


def own(layer):
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


def pruned(layer):
    return prune.l1_unstructured(layer, "weight", 0.5)


def conv():
    return nn.Conv2d(1, 4, 3)


def linear():
    return nn.Linear(16, 16)


# What is put on a convolution or on a linear layer.
COMPUTED = {
    "spectral_norm": (parametrizations.spectral_norm, parametrizations.spectral_norm),
    "weight_norm": (parametrizations.weight_norm, parametrizations.weight_norm),
    "orthogonal": (nn.Identity(), parametrizations.orthogonal),
    "own": (nn.Identity(), own),
    "two": (nn.Identity(), lambda m: own(parametrizations.weight_norm(m))),
    "old weight_norm": (nn.utils.weight_norm, nn.utils.weight_norm),
    "old spectral_norm": (nn.utils.spectral_norm, nn.utils.spectral_norm),
    "pruned": (pruned, pruned),
    "pruned twice": (lambda m: pruned(pruned(m)), pruned),
}


def computed_net(kind):
    torch.manual_seed(0)
    first, second = COMPUTED[kind]
    return nn.Sequential(
        first(conv()), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), second(linear()),
        nn.Linear(16, 10),
    )  # fmt: skip


def plain_net():
    return nn.Sequential(
        conv(), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), linear(), nn.Linear(16, 10)
    )


@pytest.mark.parametrize("kind", COMPUTED)
@pytest.mark.parametrize("training", [False, True])
def test_computed_weights_are_counted_as_what_they_are(kind, training):
    model = sd.wrap(computed_net(kind), SHAPE).train(training)
    plain = sd.wrap(plain_net(), SHAPE)
    model(torch.rand(3, *SHAPE))  # leaves a weight with a gradient behind
    assert [(r.name, r.structure, r.params, r.macs) for r in model.layer_records()] == [
        (r.name, r.structure, r.params, r.macs) for r in plain.layer_records()
    ]
    assert model.params == plain.params
    weight = model.net[4].weight.detach().numpy()
    sigma = next(r.sigma_max for r in model.layer_records() if r.name == "4")
    if not training:  # there a spectral norm takes a step with every look
        assert sigma == pytest.approx(np.linalg.norm(weight, 2), rel=1e-5)
    assert lipschitz_bound(model, {r.name: r.sigma_max for r in model.layer_records()}).gains


@pytest.mark.parametrize("kind", COMPUTED)
def test_plain_weights_compute_the_same_and_leave_the_network_alone(kind):
    net = computed_net(kind).eval()
    before = list(net.state_dict())
    plain = with_plain_weights(net)
    x = torch.rand(3, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), net(x), rtol=1e-6, atol=1e-6)
    assert {n for n, _ in plain.named_parameters()} == {
        n for n, _ in plain_net().named_parameters()
    }
    assert list(net.state_dict()) == before
    net.train()
    net(x).sum().backward()  # still trains
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["spectral_norm", "orthogonal", "old weight_norm", "pruned"])
def test_computed_weights_are_exported(tmp_path, kind):
    net = computed_net(kind).eval()
    sd.export(sd.wrap(net, SHAPE).eval(), tmp_path / "net", eval_pack=False)
    x = torch.rand(3, *SHAPE)
    for suffix in (".onnx", ".tflite"):
        with sd.open(tmp_path / f"net{suffix}") as session, torch.no_grad():
            np.testing.assert_allclose(session.run(x.numpy()), net(x).numpy(), atol=1e-5)
    names = [layer.name for layer in sd.inspect(tmp_path / "net.onnx").layers]
    assert names == ["0", "4", "5"]


def computed_factory(classes):
    return nn.Sequential(
        nn.Flatten(), parametrizations.spectral_norm(nn.Linear(64, 64)), nn.ReLU(),
        nn.utils.weight_norm(nn.Linear(64, 32)), nn.ReLU(), nn.Linear(32, classes),
    )  # fmt: skip


def test_computed_weights_are_saved_compressed_and_loaded(tmp_path):
    arch = f"{__name__}:computed_factory"
    model = sd.models.create(arch, sd.wrap(plain_net(), SHAPE).input, 10).eval()
    sd.save(model, tmp_path / "net.pt")
    x = torch.rand(3, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(sd.load(tmp_path / "net.pt", arch=arch)(x), model(x))
    small, _ = compress_model(model, plan_compression(model, "kron", "4x").changes)
    assert small.params * 4 <= model.params
    sd.save(small, tmp_path / "small.pt")
    with torch.no_grad():
        torch.testing.assert_close(sd.load(tmp_path / "small.pt", arch=arch)(x), small.eval()(x))


def plain_factory():
    return plain_net()


def other_factory():
    return computed_net("weight_norm")


@pytest.mark.parametrize("factory", ["plain_factory", "other_factory"])
@pytest.mark.parametrize("kind", [*COMPUTED, "mask module"])
def test_computed_weights_are_loaded_into_a_factory_that_makes_other_ones(tmp_path, kind, factory):
    if kind == "mask module":
        net = plain_net()
        parametrize.register_parametrization(net[4], "weight", Mask(net[4].weight))
    else:
        net = computed_net(kind)
    path, x = tmp_path / "net.pt", torch.rand(2, *SHAPE)
    sd.save(sd.wrap(net, SHAPE), path)
    loaded = sd.load(path, arch=f"{__name__}:{factory}")
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), sd.wrap(net, SHAPE).eval()(x))
    sd.save(loaded, path)
    with torch.no_grad():
        torch.testing.assert_close(sd.load(path, arch=f"{__name__}:{factory}")(x), loaded(x))


@pytest.mark.parametrize("value", ["x", None, torch.zeros(3), torch.full((16, 16), torch.nan)])
def test_damaged_values_of_computed_weights_are_refused(tmp_path, value):
    sd.save(sd.wrap(computed_net("pruned"), SHAPE), tmp_path / "net.pt")
    table = torch.load(tmp_path / "net.pt", weights_only=True)
    for factory in ("plain_factory", "pruned_factory"):
        torch.save(table | {"computed": {"4.weight": value}}, tmp_path / "bad.pt")
        with pytest.raises(sd.BadInput):
            sd.load(tmp_path / "bad.pt", arch=f"{__name__}:{factory}")


def pruned_factory():
    return computed_net("pruned")


def test_a_pruned_layer_has_its_weight_as_soon_as_it_is_loaded(tmp_path):
    net = computed_net("pruned")
    with torch.no_grad():
        net[4].weight_orig.mul_(3)  # the attribute `weight` waits for the next forward pass
    sd.save(sd.wrap(net, SHAPE), tmp_path / "net.pt")
    loaded = sd.load(tmp_path / "net.pt", arch=f"{__name__}:pruned_factory").net
    torch.testing.assert_close(loaded[4].weight, net[4].weight_orig * net[4].weight_mask)
    assert len(list(loaded[4].named_buffers())) == 1  # still pruned, should it be trained


# --- what cannot become a model -------------------------------------------------------------------


class OneSample(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(64, 10)

    def forward(self, x):
        return self.f(x.reshape(1, 64))


def scripted():
    return nn.Sequential(nn.Flatten(), torch.jit.script(nn.Linear(64, 10)))


def int8():
    return torch.ao.quantization.quantize_dynamic(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), {nn.Linear}
    )


REFUSED = {
    "float64": (lambda: plain_net().double(), "computes in float64", "module.float"),
    "float16": (lambda: plain_net().half(), "computes in float16", "module.float"),
    "bfloat16": (lambda: plain_net().bfloat16(), "computes in bfloat16", "module.float"),
    "one layer": (
        lambda: nn.Sequential(plain_net(), nn.Linear(10, 10).half()),
        "'1.weight'",
        "module.float",
    ),
    "quantised": (int8, "'1' is quantised already", "--quantize"),
    "TorchScript": (scripted, "'1' is TorchScript", "nn.Module"),
    "no module": (lambda: "x", "expected an nn.Module, found a str", "sepdeploy.load"),
    "a class": (lambda: nn.Linear, "expected an nn.Module, found a type", "sepdeploy.load"),
    "one sample": (OneSample, "batch of 2 inputs", "any N"),
    "one for all": (
        lambda: nn.Sequential(nn.Flatten(0), nn.Linear(64, 10), nn.Unflatten(0, (1, 10))),
        "batch of 2 inputs",
        "any N",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_become_a_model_is_refused_with_the_next_step(kind):
    make, message, hint = REFUSED[kind]
    with pytest.raises(sd.BadInput) as caught:
        sd.wrap(make(), SHAPE)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_model_that_was_converted_after_wrapping_is_not_exported(tmp_path):
    model = sd.wrap(plain_net(), SHAPE).half()
    with pytest.raises(sd.BadInput, match="computes in float16"):
        sd.export(model, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


# --- subclasses and wrappers ----------------------------------------------------------------------


class Pair(nn.Conv2d):
    def forward(self, x):
        a, b = x
        return super().forward(a), b


class Named(nn.Linear):
    def forward(self, *, x):
        return {"y": super().forward(x)}


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.f = Pair(1, 4, 3), Named(4, 10)

    def forward(self, x):
        y, _ = self.c((x, x))
        return self.f(x=y.mean((2, 3)))["y"]


@pytest.mark.slow
def test_layers_that_take_and_give_tuples_and_tables(tmp_path):
    model = sd.wrap(Odd(), SHAPE).eval()
    assert [(r.name, r.macs) for r in model.layer_records()] == [("c", 36 * 36), ("f", 40)]
    sd.export(model, tmp_path / "net", eval_pack=False)  # proven against the module


@pytest.mark.parametrize(
    "around", [nn.DataParallel, pytest.param(torch.compile, marks=pytest.mark.slow)]
)
def test_what_is_put_around_a_module_is_taken_off(around):
    net = plain_net()
    assert sd.wrap(around(net), SHAPE).net is net


def factory(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_with_the_prefix_of_a_wrapper(tmp_path, prefix):
    arch = f"{__name__}:factory"
    model = sd.models.create(arch, sd.wrap(plain_net(), SHAPE).input, 10).eval()
    sd.save(model, tmp_path / "net.pt")
    table = torch.load(tmp_path / "net.pt", weights_only=True)
    table["state_dict"] = {f"{prefix}{k}": v for k, v in table["state_dict"].items()}
    torch.save(table, tmp_path / "net.pt")
    x = torch.rand(2, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(sd.load(tmp_path / "net.pt", arch=arch)(x), model(x))
    torch.save(table["state_dict"], tmp_path / "bare.pt")
    with pytest.raises(sd.BadInput, match=r"DataParallel|torch\.compile"):
        sd.load(tmp_path / "bare.pt")


# --- own architectures that do not fit the data ---------------------------------------------------


def three_channels(classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, classes))


def seven_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))


@pytest.mark.parametrize(
    ("name", "message"),
    [("three_channels", "does not take an input of shape"), ("seven_classes", "gives 7 logits")],
)
def test_an_architecture_that_does_not_fit_the_data_leaves_nothing_behind(tmp_path, name, message):
    out = tmp_path / "model.pt"
    with pytest.raises(sd.BadInput, match=message):
        sd.train(out=out, arch=f"{__name__}:{name}", data="digits", epochs=1)
    assert list(tmp_path.iterdir()) == []
