"""Networks of published latencies as files: `python -m benchmarks.estimate.files FOLDER`.

Random weights, normalisations folded away; then `sepdeploy export NAME.onnx -f tflite --no-eval`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn


class Inverted(nn.Module):
    """An inverted residual of MobileNetV2."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        first = convolved(inputs, inner, 1) if expansion > 1 else []
        last = nn.Conv2d(inner, outputs, 1)
        self.path = nn.Sequential(*first, *convolved(inner, inner, 3, stride, inner), last)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run it."""
        y: torch.Tensor = self.path(x)
        return x + y if self.adds else y


class Basic(nn.Module):
    """A block of ResNet-18."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1),
        )
        plain = stride == 1 and inputs == outputs
        self.beside = nn.Identity() if plain else nn.Conv2d(inputs, outputs, 1, stride)
        self.end = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run it."""
        y: torch.Tensor = self.end(self.beside(x) + self.path(x))
        return y


class Fire(nn.Module):
    """A block of SqueezeNet."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(inputs, squeeze, 1), nn.ReLU())
        self.one = nn.Sequential(nn.Conv2d(squeeze, expand, 1), nn.ReLU())
        self.three = nn.Sequential(nn.Conv2d(squeeze, expand, 3, 1, 1), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run it."""
        x = self.squeeze(x)
        return torch.cat([self.one(x), self.three(x)], dim=1)


def convolved(
    inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Return a convolution and its activation."""
    return [nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups), nn.ReLU6()]


def headed(layers: list[nn.Module], channels: int) -> nn.Module:
    """Return layers with a classifier behind them."""
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


def mobilenet_v1() -> nn.Module:
    """MobileNet, width 1, 224×224."""
    layers, channels = convolved(3, 32, 3, 2), 32
    for out, stride in [
        (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
        *[(512, 1)] * 5, (1024, 2), (1024, 1),
    ]:  # fmt: skip
        layers += [
            *convolved(channels, channels, 3, stride, channels),
            *convolved(channels, out, 1),
        ]
        channels = out
    return headed(layers, channels)


def mobilenet_v2() -> nn.Module:
    """MobileNetV2, width 1, 224×224."""
    layers, channels = convolved(3, 32, 3, 2), 32
    for expansion, out, repeats, first in [
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]:  # fmt: skip
        for i in range(repeats):
            layers.append(Inverted(channels, out, 1 if i else first, expansion))
            channels = out
    return headed([*layers, *convolved(320, 1280, 1)], 1280)


def resnet18() -> nn.Module:
    """ResNet-18, 224×224."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for out, stride in [(64, 1), (128, 2), (256, 2), (512, 2)]:
        layers += [Basic(channels, out, stride), Basic(out, out, 1)]
        channels = out
    return headed(layers, channels)


def squeezenet() -> nn.Module:
    """SqueezeNet 1.0, 224×224."""
    layers: list[nn.Module] = [nn.Conv2d(3, 96, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    channels = 96
    for i, (squeeze, expand) in enumerate([(16, 64)] * 2 + [(32, 128)] * 2 + [(48, 192)] * 2):
        if i == 3:
            layers.append(nn.MaxPool2d(3, 2))
        layers.append(Fire(channels, squeeze, expand))
        channels = 2 * expand
    layers += [Fire(384, 64, 256), nn.MaxPool2d(3, 2), Fire(512, 64, 256)]
    return nn.Sequential(
        *layers, nn.Conv2d(512, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "resnet18": resnet18,
    "squeezenet_1.0": squeezenet,
}


def main() -> None:
    """Write the files."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    for name, build in NETWORKS.items():
        sample = (torch.zeros(1, 3, 224, 224),)
        names = {"input_names": ["x"], "output_names": ["y"]}
        path = str(folder / f"{name}.onnx")
        torch.onnx.export(build().eval(), sample, path, opset_version=17, dynamo=False, **names)


if __name__ == "__main__":
    main()
