"""Networks made for phones, by width and side of the image."""

from __future__ import annotations

import math

from benchmarks.estimate.networks.builder import Builder, rounded
from sepdeploy.devices.estimate.op import Op


def mobilenet_v1(width: float = 1.0, side: int = 224) -> tuple[Op, ...]:
    """MobileNet (Howard et al., 2017)."""
    net = Builder(side)
    net.conv(int(32 * width), 3, 2)
    for out, stride in [
        (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
        *[(512, 1)] * 5, (1024, 2), (1024, 1),
    ]:  # fmt: skip
        net.depthwise(stride)
        net.conv(int(out * width), 1)
    net.pool(1)
    net.dense(1000)
    return tuple(net.ops)


def mobilenet_v2(width: float = 1.0, side: int = 224) -> tuple[Op, ...]:
    """MobileNetV2 (Sandler et al., 2018)."""
    net = Builder(side)
    net.conv(rounded(32 * width), 3, 2)
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
              (6, 160, 3, 2), (6, 320, 1, 1)]  # fmt: skip
    _inverted(net, [(e, rounded(c * width), n, s, 3) for e, c, n, s in stages])
    net.conv(rounded(1280 * max(width, 1.0)), 1)
    net.pool(1)
    net.dense(1000)
    return tuple(net.ops)


def _inverted(net: Builder, stages: list[tuple[int, int, int, int, int]]) -> None:
    """Add inverted residuals: expansion, channels, repeats, first stride and kernel."""
    for expansion, out, repeats, first, size in stages:
        for i in range(repeats):
            stride = first if i == 0 else 1
            same = stride == 1 and net.channels == out
            if expansion > 1:
                net.conv(net.channels * expansion, 1)
            net.depthwise(stride, size)
            net.conv(out, 1)
            if same:
                net.add()


def efficientnet_lite(width: float, depth: float, side: int) -> tuple[Op, ...]:
    """EfficientNet-Lite (Tan and Le, 2019; without squeeze-and-excitation)."""
    net = Builder(side)
    net.conv(32, 3, 2)
    stages = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
              (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)]  # fmt: skip
    last = len(stages) - 1
    _inverted(
        net,
        [
            (e, rounded(c * width), n if i in (0, last) else math.ceil(n * depth), s, k)
            for i, (e, c, n, s, k) in enumerate(stages)
        ],
    )
    net.conv(1280, 1)
    net.pool(1)
    net.dense(1000)
    return tuple(net.ops)


# Kernel, expanded channels, channels, squeeze-and-excitation, hard swish, stride (Howard et al.,
# 2019, tables 1 and 2).
V3_LARGE = [
    (3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2),
    (5, 120, 40, 1, 0, 1), (5, 120, 40, 1, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1),
    (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 480, 112, 1, 1, 1), (3, 672, 112, 1, 1, 1),
    (5, 672, 160, 1, 1, 2), (5, 960, 160, 1, 1, 1), (5, 960, 160, 1, 1, 1),
]  # fmt: skip
V3_SMALL = [
    (3, 16, 16, 1, 0, 2), (3, 72, 24, 0, 0, 2), (3, 88, 24, 0, 0, 1), (5, 96, 40, 1, 1, 2),
    (5, 240, 40, 1, 1, 1), (5, 240, 40, 1, 1, 1), (5, 120, 48, 1, 1, 1), (5, 144, 48, 1, 1, 1),
    (5, 288, 96, 1, 1, 2), (5, 576, 96, 1, 1, 1), (5, 576, 96, 1, 1, 1),
]  # fmt: skip


def mobilenet_v3(*, large: bool, width: float = 1.0, minimal: bool = False) -> tuple[Op, ...]:
    """MobileNetV3 (Howard et al., 2019) at 224×224.

    Args:
        large: The large one, else the small one.
        width: Factor of the channels.
        minimal: Only 3×3 kernels, neither squeeze-and-excitation nor hard swish.
    """
    net = Builder()
    net.conv(rounded(16 * min(width, 1.0)) if minimal else 16, 3, 2)
    if not minimal:
        net.swish()
    for i, (size, inner, out, squeeze, swish, stride) in enumerate(V3_LARGE if large else V3_SMALL):
        start = net.channels
        wide = rounded(inner * width)
        target = rounded(out * width)
        if i:
            net.conv(wide, 1)
            if swish and not minimal:
                net.swish()
        net.depthwise(stride, 3 if minimal else size)
        if swish and not minimal:
            net.swish()
        if squeeze and not minimal:
            net.squeeze(rounded(net.channels / 4))
        net.conv(target, 1)
        if stride == 1 and start == target:
            net.add()
    net.conv(net.channels * 6, 1)
    if not minimal:
        net.swish()
    net.pool(1)
    net.dense(1280 if large else 1024)
    net.dense(1000)
    return tuple(net.ops)
