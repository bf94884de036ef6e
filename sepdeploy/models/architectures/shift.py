"""ShiftResNet: 3×3 convolutions replaced by 1×1, a shift of every map by one place, 1×1."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.errors import WIDTHS, BadInput
from sepdeploy.layers import make_linear
from sepdeploy.models.architectures.resnet import check_image, initialise
from sepdeploy.models.placement import StructureMap, refuse_without_effect, resolve_structures
from sepdeploy.records import InputSpec
from sepdeploy.structures import parse_structure
from sepdeploy.structures.base import check_count


class ShiftConv2d(nn.Module):
    """Moves every map by one of the k² displacements of a kernel; no weights, no arithmetic.

    Maps of a displacement stand side by side, those of the centre last, which has what is left
    over. It is a depthwise convolution with one-hot kernels, and goes out as one.

    Args:
        channels: Maps.
        kernel: Side k, odd.
    """

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        taps, each = kernel * kernel, channels // (kernel * kernel)
        order = [t for t in range(taps) if t != taps // 2] + [taps // 2]
        places = [tap for tap in order[:-1] for _ in range(each)]
        places += [order[-1]] * (channels - len(places))
        pixels = torch.eye(taps)[places].reshape(channels, 1, kernel, kernel)
        self.register_buffer("pixels", pixels, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), zeros come in at the borders."""
        pixels = cast(Tensor, self.pixels)
        return F.conv2d(x, pixels, padding=pixels.shape[-1] // 2, groups=x.shape[1])


class ShiftBlock(nn.Module):
    """1×1 to ⌊ε · outputs⌋ maps, shift, 1×1, with the shortcut added after the last ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: float) -> None:
        super().__init__()
        middle = max(1, int(expansion * outputs))
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.shift = ShiftConv2d(middle)
        self.conv2 = nn.Conv2d(middle, outputs, 1, stride, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, outputs, H/stride, W/stride)."""
        y = self.shift(F.relu(self.bn1(self.conv1(x))))
        return F.relu(self.bn2(self.conv2(y))) + cast(Tensor, self.downsample(x))


class ShiftResNet(nn.Module):
    """Stem, three stages of shift blocks, mean over places, head."""

    def __init__(
        self,
        input: InputSpec,
        classes: int,
        structure: StructureMap,
        depth: int,
        base: int,
        expansion: float,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(input.shape[0], base, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        blocks, maps = [], base
        for stage in range(3):
            for index in range(depth):
                outputs, stride = base << stage, 2 if stage and not index else 1
                blocks.append(ShiftBlock(maps, outputs, stride, expansion))
                maps = outputs
        self.blocks = nn.Sequential(*blocks)
        texts = resolve_structures(structure, (), keep_dense=("head",))
        self.head = make_linear(parse_structure(texts["head"], (maps,), classes))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch (N, C, H, W)."""
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return cast(Tensor, self.head(x.mean(dim=(2, 3))))


def shiftresnet(
    layers: int,
    input: InputSpec,
    classes: int,
    structure: StructureMap = None,
    base: int = 16,
    expansion: float = 3.0,
) -> nn.Module:
    """ShiftResNet of 20, 56 or 110 layers: 95 642 parameters at 20 on 3×32×32 with 10 classes.

    Args:
        layers: 6n + 2 for n blocks a stage.
        input: What one sample looks like, (C, H, W) of at least 8×8.
        classes: Number of logits.
        structure: A table for the layer name ``head``; None is dense. The convolutions stay.
        base: Maps of the first stage; each later stage has twice as many.
        expansion: ε, maps that are shifted for each one of the block's result.

    Raises:
        BadInput: The input is no image, or too small; options that make no sense.
    """
    name = f"shiftresnet{layers}"
    check_image(name, input)
    refuse_without_effect(name, structure, "head")
    number = isinstance(expansion, (int, float)) and not isinstance(expansion, bool)
    if not number or not 0 < expansion <= 64:
        raise BadInput(f"expansion {expansion!r:.40} is outside 0 … 64", hint=WIDTHS)
    depth, maps = (layers - 2) // 6, check_count(base, "base", 1024)
    return ShiftResNet(input, classes, structure, depth, maps, float(expansion))
