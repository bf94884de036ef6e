"""Modules as people write them, traced and written: the patterns that an exporter really emits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tflite_oracles import INTERPRETERS, Array, check

torch = pytest.importorskip("torch")
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from sepdeploy import models  # noqa: E402
from sepdeploy.exporters.capture.trace import trace  # noqa: E402
from sepdeploy.records import InputSpec  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not INTERPRETERS, reason="no TFLite runtime is installed"),
]

IMAGE = (3, 12, 10)


class Lambda(nn.Module):
    """A forward as a function of the module's parts and the input."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def windows(self: nn.Module, x: Tensor) -> Tensor:
    """Attention inside windows of 4 x 5, as in shifted-window transformers."""
    batch, width, height, length = x.shape
    y = x.permute(0, 2, 3, 1).reshape(batch, height // 4, 4, length // 5, 5, width)
    y = y.permute(0, 1, 3, 2, 4, 5).reshape(-1, 20, width)
    q, k, v = self.qkv(y).reshape(-1, 20, 3, 3, width // 3).permute(2, 0, 3, 1, 4).unbind(0)
    y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 20, width)
    y = y.reshape(-1, height // 4, length // 5, 4, 5, width).permute(0, 1, 3, 2, 4, 5)
    return (x + y.reshape(-1, height, length, width).permute(0, 3, 1, 2)).mean((2, 3))


def next_block(self: nn.Module, x: Tensor) -> Tensor:
    y = self.norm(self.depth(x).permute(0, 2, 3, 1))
    y = self.down(F.gelu(self.up(y)))
    return (x + y.permute(0, 3, 1, 2)).mean((2, 3))


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "adaptive pools": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d((5, 4)), nn.Flatten()),
        IMAGE,
    ),
    "group norm": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.SiLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten()
        ),
        IMAGE,
    ),
    "instance norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6), nn.Flatten()),
        IMAGE,
    ),
    "attention module": (
        lambda: Lambda(
            lambda s, x: s.attention(tokens(x), tokens(x), tokens(x), need_weights=False)[0].mean(
                1
            ),
            attention=nn.MultiheadAttention(3, 3, batch_first=True),
        ),
        IMAGE,
    ),
    "encoder layer": (
        lambda: Lambda(
            lambda s, x: s.layer(tokens(s.conv(x))).mean(1),
            conv=nn.Conv2d(3, 8, 3, 2),
            layer=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu"),
        ),
        IMAGE,
    ),
    "causal attention": (
        lambda: Lambda(
            lambda s, x: F.scaled_dot_product_attention(
                tokens(x), tokens(x), tokens(x), is_causal=True
            ).mean(1)
        ),
        IMAGE,
    ),
    "windows": (lambda: Lambda(windows, qkv=nn.Linear(3, 9)), IMAGE),
    "next block": (
        lambda: Lambda(
            next_block,
            depth=nn.Conv2d(3, 3, 7, padding=3, groups=3),
            norm=nn.LayerNorm(3),
            up=nn.Linear(3, 12),
            down=nn.Linear(12, 3),
        ),
        IMAGE,
    ),
    "channel shuffle": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 1), nn.ChannelShuffle(2), nn.Conv2d(8, 6, 3, groups=2), nn.Flatten()
        ),
        IMAGE,
    ),
    "pixel shuffle": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.PixelShuffle(2), nn.ReLU(), nn.PixelUnshuffle(2), nn.Flatten()
        ),
        IMAGE,
    ),
    "upsampling": (
        lambda: Lambda(
            lambda s, x: (
                F.interpolate(x, scale_factor=2, mode="bilinear").mean(1).flatten(1)
                + F.interpolate(x, size=(24, 20)).amax(1).flatten(1)
            )
        ),
        IMAGE,
    ),
    "transposed": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(3, 6, 3, 2, 1, 1), nn.BatchNorm2d(6), nn.ReLU6(), nn.Flatten()
        ),
        IMAGE,
    ),
    "unfold": (
        lambda: Lambda(lambda s, x: F.unfold(x, 2, stride=2).amax(2)),
        IMAGE,
    ),
    "shift and roll": (
        lambda: Lambda(lambda s, x: (x.roll(2, 2) + F.pad(x, (1, -1, 0, 0))).flatten(1)),
        IMAGE,
    ),
    "gate": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GLU(1), nn.Flatten()), IMAGE),
    "normalize": (lambda: Lambda(lambda s, x: F.normalize(x.flatten(1), dim=1)), IMAGE),
    "variance": (
        lambda: Lambda(lambda s, x: x.var((2, 3)) + x.std(1).mean((1, 2))[:, None]),
        IMAGE,
    ),
    "einsum": (
        lambda: Lambda(
            lambda s, x: torch.einsum("nchw,ah,bw->ncab", x, s.a.weight, s.b.weight).flatten(1),
            a=nn.Linear(12, 4),
            b=nn.Linear(10, 5),
        ),
        IMAGE,
    ),
    "point cloud": (
        lambda: Lambda(
            lambda s, x: s.head(s.second(F.relu(s.norm(s.first(x.flatten(2))))).amax(2)),
            first=nn.Conv1d(3, 8, 1),
            norm=nn.BatchNorm1d(8),
            second=nn.Conv1d(8, 12, 1),
            head=nn.Linear(12, 4),
        ),
        IMAGE,
    ),
}


def evaluate(model: models.Model) -> Callable[[Array], list[Array]]:
    def oracle(x: Array) -> list[Array]:
        with torch.no_grad():
            return [model(torch.from_numpy(x)).numpy()]

    return oracle


def settled(module: nn.Module) -> nn.Module:
    """Give norms something to do."""
    for part in module.modules():
        for name in ("weight", "bias", "running_mean", "running_var"):
            data = getattr(part, name, None)
            if "Norm" in type(part).__name__ and data is not None:
                nn.init.uniform_(data, 0.5, 1.5)
    return module.eval()


@pytest.mark.parametrize("name", MODULES)
def test_a_module(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build, shape = MODULES[name]
    with torch.no_grad():
        module = settled(build())
    model = models.wrap(module, shape, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    model.eval()
    check(trace(model), shape, tmp_path, oracle=evaluate(model), low=0.0, high=1.0)


@pytest.mark.parametrize(
    ("arch", "structure", "shape"),
    [
        ("vgg11", "kron", (3, 32, 32)),
        ("resnet20", "dense", (3, 32, 32)),
        ("vit_tiny", "kron", (3, 32, 32)),
    ],
)
def test_an_architecture(arch: str, structure: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.create(arch, InputSpec(shape), 10, structure)
    model.eval()
    file = check(trace(model), shape, tmp_path, oracle=evaluate(model), low=0.0, high=1.0)
    if arch == "resnet20":
        assert file.op_counts()["TRANSPOSE"] == 0
