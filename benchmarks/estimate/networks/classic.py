"""Networks of large convolutions."""

from __future__ import annotations

from benchmarks.estimate.networks.builder import Builder
from sepdeploy.devices.estimate.op import Op


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


FIRE = [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)]


def _fire(net: Builder, pools: tuple[int, ...]) -> tuple[Op, ...]:
    for i, (squeeze, expand) in enumerate(FIRE):
        if i in pools:
            net.pool((net.side - 1) // 2)
        net.conv(squeeze, 1)
        net.conv(expand, 1, keep=True)
        net.conv(expand, 3)
        net.channels = 2 * expand
    net.conv(1000, 1)
    net.pool(1)
    return tuple(net.ops)


def squeezenet() -> tuple[Op, ...]:
    """SqueezeNet 1.1 (Iandola et al., 2016), 227×227."""
    net = Builder(side=227)
    net.conv(64, 3, 2, pad=0)
    net.pool(56)
    return _fire(net, (2, 4))


def squeezenet_1_0() -> tuple[Op, ...]:
    """SqueezeNet 1.0 (Iandola et al., 2016), 224×224."""
    net = Builder(side=224)
    net.conv(96, 7, 2, pad=0)
    net.pool(54)
    return _fire(net, (3, 7))


def googlenet() -> tuple[Op, ...]:
    """GoogLeNet (Szegedy et al., 2015), 224×224, without its auxiliary classifiers."""
    net = Builder()
    net.conv(64, 7, 2)
    net.pool(56)
    net.conv(64, 1)
    net.conv(192, 3)
    net.pool(28)
    table = [
        (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64), (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128), (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128),
    ]  # fmt: skip
    for i, (one, three_in, three, five_in, five, pooled) in enumerate(table):
        if i in (2, 7):
            net.pool(net.side // 2)
        net.branches(
            ((one, 1),),
            ((three_in, 1), (three, 3)),
            ((five_in, 1), (five, 5)),
            pooled=pooled,
        )
    net.pool(1)
    net.dense(1000)
    return tuple(net.ops)


def inception_v3() -> tuple[Op, ...]:
    """Inception V3 (Szegedy et al., 2016), 299×299, without its auxiliary classifier."""
    net = Builder(side=299)
    net.conv(32, 3, 2, pad=0)
    net.conv(32, 3, pad=0)
    net.conv(64, 3)
    net.pool(73)
    net.conv(80, 1)
    net.conv(192, 3, pad=0)
    net.pool(35)
    for pooled in (32, 64, 64):
        net.branches(((64, 1),), ((48, 1), (64, 5)), ((64, 1), (96, 3), (96, 3)), pooled=pooled)
    _reduced(net, 17, ((384, 3),), ((64, 1), (96, 3), (96, 3)))
    for w in (128, 160, 160, 192):
        net.branches(
            ((192, 1),),
            ((w, 1), (w, (1, 7)), (192, (7, 1))),
            ((w, 1), (w, (7, 1)), (w, (1, 7)), (w, (7, 1)), (192, (1, 7))),
            pooled=192,
        )
    _reduced(net, 8, ((192, 1), (320, 3)), ((192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)))
    for _ in range(2):
        net.branches(((320, 1),), ((384, 1), (768, (1, 3))), ((448, 1), (384, 3)), pooled=192)
        # The ends split in two: half of the (1, 3) above is a (3, 1); the last chain has both.
        net.channels = 384
        net.conv(768, (1, 3))
        net.channels = 320 + 768 + 768 + 192
    net.pool(1)
    net.dense(1000)
    return tuple(net.ops)


def _reduced(
    net: Builder, side: int, *chains: tuple[tuple[int, int | tuple[int, int]], ...]
) -> None:
    """Add chains whose last convolution, unpadded, steps by two, and a pooling beside them."""
    start, channels, total = net.side, net.channels, net.channels
    for chain in chains:
        net.side, net.channels = start, channels
        for out, size in chain[:-1]:
            net.conv(out, size)
        net.conv(chain[-1][0], chain[-1][1], 2, pad=0)
        total += net.channels
    net.side, net.channels = start, channels
    net.pool(side)
    net.channels = total
