"""DenseNet-40 for small images: every layer sees the maps of all before it."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.layers import make_linear
from sepdeploy.models.architectures.resnet import check_image, initialise
from sepdeploy.models.placement import StructureMap, refuse_without_effect, resolve_structures
from sepdeploy.records import InputSpec
from sepdeploy.structures import parse_structure
from sepdeploy.structures.base import check_count

LAYERS = 12  # of each of the three blocks


class Grown(nn.Module):
    """Normalisation, ReLU, 3×3, and its maps behind those that came in."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C + growth, H, W)."""
        return torch.cat([x, self.conv(F.relu(self.bn(x)))], dim=1)


class Between(nn.Module):
    """Normalisation, ReLU, 1×1 on as many maps, mean of 2×2 places."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(maps)
        self.conv = nn.Conv2d(maps, maps, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H/2, W/2)."""
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class DenseNet(nn.Module):
    """Stem, three dense blocks, mean over places, head."""

    def __init__(self, input: InputSpec, classes: int, structure: StructureMap, growth: int):
        super().__init__()
        maps = 2 * growth
        self.stem = nn.Conv2d(input.shape[0], maps, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        for block in range(3):
            if block:
                blocks.append(Between(maps))
            for _ in range(LAYERS):
                blocks.append(Grown(maps, growth))
                maps += growth
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(maps)
        texts = resolve_structures(structure, (), keep_dense=("head",))
        self.head = make_linear(parse_structure(texts["head"], (maps,), classes))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch (N, C, H, W)."""
        x = F.relu(self.bn(self.blocks(self.stem(x))))
        return cast(Tensor, self.head(x.mean(dim=(2, 3))))


def densenet40(
    input: InputSpec, classes: int, structure: StructureMap = None, growth: int = 12
) -> nn.Module:
    """DenseNet-40 without bottlenecks: 1 059 298 parameters on 3×32×32 with 10 classes.

    Args:
        input: What one sample looks like, (C, H, W) of at least 8×8.
        classes: Number of logits.
        structure: A table for the layer name ``head``; None is dense. The convolutions stay.
        growth: Maps that every layer adds.

    Raises:
        BadInput: The input is no image, or too small; options that make no sense.
    """
    check_image("densenet40", input)
    refuse_without_effect("densenet40", structure, "head")
    return DenseNet(input, classes, structure, check_count(growth, "growth", 256))
