"""Residual networks: ResNet-18, and ResNet-20 and 56 for small images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.errors import BadInput, unknown_name
from sepdeploy.layers import make_linear
from sepdeploy.models.placement import StructureMap, refuse_without_effect, resolve_structures
from sepdeploy.records import InputSpec
from sepdeploy.structures import parse_structure
from sepdeploy.structures.base import check_count

SMALL_IMAGE = 64  # pixels; below, the stem neither strides nor pools
SHORTCUTS = ("pad", "conv")
STEMS = ("large", "small")


class PadShortcut(nn.Module):
    """A shortcut without parameters: every ``stride``-th place, new maps filled with zeros."""

    def __init__(self, stride: int, extra: int) -> None:
        super().__init__()
        self.stride = stride
        self.before, self.after = extra // 2, extra - extra // 2

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C + extra, ⌈H/stride⌉, ⌈W/stride⌉)."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            if shortcut == "pad":
                self.downsample = PadShortcut(stride, outputs - inputs)
            else:
                self.downsample = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, outputs, H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet(nn.Module):
    """Stem (conv1, bn1, pool), stages layer1 … layerN of basic blocks, mean over places, head."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        structure: StructureMap,
        *,
        depths: tuple[int, ...],
        base: int,
        stem: str,
        shortcut: str,
    ) -> None:
        super().__init__()
        large = stem == "large"
        kernel, stride = (7, 2) if large else (3, 1)
        self.conv1 = nn.Conv2d(
            input_shape[0], base, kernel, stride, padding=kernel // 2, bias=False
        )
        self.bn1 = nn.BatchNorm2d(base)
        self.pool: nn.Module = nn.MaxPool2d(3, 2, padding=1) if large else nn.Identity()
        self.stages = tuple(f"layer{k}" for k in range(1, len(depths) + 1))
        width = base
        for k, (name, depth) in enumerate(zip(self.stages, depths, strict=True)):
            blocks = []
            for index in range(depth):
                outputs, step = base << k, 2 if k and not index else 1
                blocks.append(BasicBlock(width, outputs, step, shortcut))
                width = outputs
            self.add_module(name, nn.Sequential(*blocks))
        texts = resolve_structures(structure, (), keep_dense=("head",))
        self.head = make_linear(parse_structure(texts["head"], (width,), classes))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch (N, C, H, W)."""
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


def initialise(net: nn.Module) -> None:
    """Draw the weights of every convolution: He et al. 2015 (arXiv 1502.01852), by outputs."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def check_image(arch: str, input: InputSpec) -> None:
    """Refuse what is no image.

    Raises:
        BadInput: Another shape than (C, H, W), or fewer than 8×8 pixels.
    """
    if len(input.shape) != 3 or min(input.shape[1:]) < 8:
        raise BadInput(
            f"{arch} needs images of at least 8x8 pixels (C, H, W), the input is {input.shape}",
            hint="use mlp for inputs of another kind",
        )


def resnet18(
    input: InputSpec,
    classes: int,
    structure: StructureMap = None,
    base: int = 64,
    stem: str | None = None,
) -> nn.Module:
    """ResNet-18: 11 689 512 parameters on 3×224×224 with 1000 classes.

    Args:
        input: What one sample looks like, (C, H, W) of at least 8×8.
        classes: Number of logits.
        structure: A table for the layer name ``head``; None is dense. The convolutions stay.
        base: Maps of the first stage; each later stage has twice as many.
        stem: "large" (7×7, stride 2, max pool) or "small" (3×3); None: by the size of the image,
            large from 64 pixels on.

    Raises:
        BadInput: The input is no image, or too small; options that make no sense.
    """
    check_image("resnet18", input)
    refuse_without_effect("resnet18", structure, "head")
    if stem is None:
        stem = "large" if min(input.shape[1:]) >= SMALL_IMAGE else "small"
    if stem not in STEMS:
        raise unknown_name("stem", str(stem)[:40], STEMS)
    return ResNet(
        input.shape,
        classes,
        structure,
        depths=(2, 2, 2, 2),
        base=check_count(base, "base", 1024),
        stem=stem,
        shortcut="conv",
    )


def resnet_small(
    layers: int,
    input: InputSpec,
    classes: int,
    structure: StructureMap = None,
    base: int = 16,
    shortcut: str = "pad",
) -> nn.Module:
    """ResNet of 20 or 56 layers for small images: 269 722 parameters at 20, 3×32×32, 10 classes.

    Args:
        layers: 6n + 2 for n blocks a stage.
        input: What one sample looks like, (C, H, W) of at least 8×8.
        classes: Number of logits.
        structure: A table for the layer name ``head``; None is dense. The convolutions stay.
        base: Maps of the first stage; each later stage has twice as many.
        shortcut: Where a block changes its size: "pad" (zeros, no parameters) as published, or
            "conv" (1×1 convolution with normalisation; 272 474 parameters at 20).

    Raises:
        BadInput: The input is no image, or too small; options that make no sense.
    """
    name = f"resnet{layers}"
    check_image(name, input)
    refuse_without_effect(name, structure, "head")
    if shortcut not in SHORTCUTS:
        raise unknown_name("shortcut", str(shortcut)[:40], SHORTCUTS)
    return ResNet(
        input.shape,
        classes,
        structure,
        depths=((layers - 2) // 6,) * 3,
        base=check_count(base, "base", 1024),
        stem="small",
        shortcut=shortcut,
    )
