"""A small net of inverted residuals, as users write it: most weights are in 1×1 convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Inverted(nn.Module):
    """1×1 up, depthwise 3×3, 1×1 down, and what came in where the sizes allow it."""

    def __init__(self, inside: int, out: int, stride: int, widen: int = 4) -> None:
        super().__init__()
        wide = inside * widen
        self.body = nn.Sequential(
            nn.Conv2d(inside, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide),
            nn.ReLU6(), nn.Conv2d(wide, out, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        self.adds = stride == 1 and inside == out

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return x + y if self.adds else y


def mobile_net(classes: int = 10, base: int = 16) -> nn.Module:
    """Four blocks and a classifier."""
    torch.manual_seed(0)
    widths = ((base, 1), (2 * base, 2), (2 * base, 1), (4 * base, 2))
    blocks, inside = [], base
    for out, stride in widths:
        blocks.append(Inverted(inside, out, stride))
        inside = out
    return nn.Sequential(
        nn.Conv2d(1, base, 3, padding=1, bias=False), nn.BatchNorm2d(base), nn.ReLU6(), *blocks,
        nn.Conv2d(inside, 8 * base, 1, groups=4), nn.ReLU6(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8 * base, classes),
    )  # fmt: skip
