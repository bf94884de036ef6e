"""The networks of the published latencies, as lists of operations.

They are written down from the papers that introduced them; activations and normalisations are
fused into the convolutions, as every runtime of the table does.
"""

from __future__ import annotations

from collections.abc import Callable

from sepdeploy.devices.estimate.op import Op

FLOAT = 4  # bytes


class Builder:
    """Collects operations while it follows the shape of one image (channels, side)."""

    def __init__(self, side: int = 224, channels: int = 3) -> None:
        self.ops: list[Op] = []
        self.side, self.channels = side, channels

    def _add(self, kind: str, macs: int, weights: int, values: int) -> None:
        name = f"{len(self.ops)}:{kind}"
        self.ops.append(Op(name, kind, macs, weights * FLOAT, values * FLOAT))

    def conv(
        self, out: int, size: int, stride: int = 1, pad: int | None = None, *, keep: bool = False
    ) -> None:
        """Add a convolution; ``keep`` leaves the shape as it was (a branch beside the trunk)."""
        side = (self.side + 2 * (size // 2 if pad is None else pad) - size) // stride + 1
        weights = out * self.channels * size * size
        values = self.channels * self.side**2 + out * side**2
        kind = {1: "conv1x1", 3: "conv3x3"}.get(size, "conv")
        self._add(kind, weights * side**2, weights + out, values)
        if not keep:
            self.channels, self.side = out, side

    def depthwise(self, stride: int) -> None:
        """Add a 3×3 depthwise convolution."""
        side = (self.side - 1) // stride + 1
        values = self.channels * (self.side**2 + side**2)
        self._add("depthwise", 9 * self.channels * side**2, 10 * self.channels, values)
        self.side = side

    def pool(self, side: int) -> None:
        """Add a pooling to a given side."""
        values = self.channels * (self.side**2 + side**2)
        self._add("elementwise", 0, 0, values)
        self.side = side

    def add(self) -> None:
        """Add the sum of two tensors of the current shape."""
        self._add("elementwise", 0, 0, 3 * self.channels * self.side**2)

    def dense(self, out: int) -> None:
        """Add a fully connected layer."""
        inputs = self.channels * self.side**2
        self._add("matmul", inputs * out, inputs * out + out, inputs + out)
        self.channels, self.side = out, 1


def mobilenet_v1() -> tuple[Op, ...]:
    """MobileNet (Howard et al., 2017), width 1, 224×224."""
    net = Builder()
    net.conv(32, 3, 2)
    for out, stride in [
        (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
        *[(512, 1)] * 5, (1024, 2), (1024, 1),
    ]:  # fmt: skip
        net.depthwise(stride)
        net.conv(out, 1)
    net.pool(1)
    net.dense(1000)
    return tuple(net.ops)


def mobilenet_v2() -> tuple[Op, ...]:
    """MobileNetV2 (Sandler et al., 2018), width 1, 224×224."""
    net = Builder()
    net.conv(32, 3, 2)
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
              (6, 160, 3, 2), (6, 320, 1, 1)]  # fmt: skip
    for expansion, out, repeats, first in stages:
        for i in range(repeats):
            stride = first if i == 0 else 1
            same = stride == 1 and net.channels == out
            if expansion > 1:
                net.conv(net.channels * expansion, 1)
            net.depthwise(stride)
            net.conv(out, 1)
            if same:
                net.add()
    net.conv(1280, 1)
    net.pool(1)
    net.dense(1000)
    return tuple(net.ops)


def _resnet(blocks: tuple[int, ...], bottleneck: bool) -> tuple[Op, ...]:
    net = Builder()
    net.conv(64, 7, 2)
    net.pool(56)
    for stage, repeats in enumerate(blocks):
        width = 64 << stage
        out = 4 * width if bottleneck else width
        for i in range(repeats):
            stride = 2 if stage and i == 0 else 1
            if net.channels != out or stride > 1:
                net.conv(out, 1, stride, keep=True)
            if bottleneck:
                net.conv(width, 1, stride)
                net.conv(width, 3)
                net.conv(out, 1)
            else:
                net.conv(width, 3, stride)
                net.conv(width, 3)
            net.add()
    net.pool(1)
    net.dense(1000)
    return tuple(net.ops)


def resnet18() -> tuple[Op, ...]:
    """ResNet-18 (He et al., 2016), 224×224."""
    return _resnet((2, 2, 2, 2), bottleneck=False)


def resnet50() -> tuple[Op, ...]:
    """ResNet-50 (He et al., 2016), 224×224, stride in the first 1×1 convolution."""
    return _resnet((3, 4, 6, 3), bottleneck=True)


def vgg16() -> tuple[Op, ...]:
    """VGG-16 (Simonyan and Zisserman, 2015), 224×224."""
    net = Builder()
    for width, repeats in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]:
        for _ in range(repeats):
            net.conv(width, 3)
        net.pool(net.side // 2)
    for out in (4096, 4096, 1000):
        net.dense(out)
    return tuple(net.ops)


def squeezenet() -> tuple[Op, ...]:
    """SqueezeNet 1.1 (Iandola et al., 2016), 227×227."""
    net = Builder(side=227)
    net.conv(64, 3, 2, pad=0)
    net.pool(56)
    for i, (squeeze, expand) in enumerate(
        [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)]
    ):
        if i in (2, 4):
            net.pool((net.side - 1) // 2)
        net.conv(squeeze, 1)
        net.conv(expand, 1, keep=True)
        net.conv(expand, 3)
        net.channels = 2 * expand
    net.conv(1000, 1)
    net.pool(1)
    return tuple(net.ops)


NETWORKS: dict[str, Callable[[], tuple[Op, ...]]] = {
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "vgg16": vgg16,
    "squeezenet": squeezenet,
}
