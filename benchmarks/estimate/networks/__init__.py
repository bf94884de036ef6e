"""The networks of the published latencies, as lists of operations, from the papers' own words."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.estimate.networks.classic import (
    googlenet,
    inception_v3,
    resnet18,
    resnet50,
    squeezenet,
    squeezenet_1_0,
    vgg16,
)
from benchmarks.estimate.networks.mobile import (
    efficientnet_lite,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
)
from sepdeploy.devices.estimate.op import Op

LITE = [(1.0, 1.0, 224), (1.0, 1.1, 240), (1.1, 1.2, 260), (1.2, 1.4, 280), (1.4, 1.8, 300)]

# By name: "mobilenet_v1-0.25-128" is that of a width and a side.
NETWORKS: dict[str, Callable[[], tuple[Op, ...]]] = {
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "vgg16": vgg16,
    "squeezenet": squeezenet,
    "squeezenet_1.0": squeezenet_1_0,
    "googlenet": googlenet,
    "inception_v3": inception_v3,
    **{
        f"{name}-{width}-{side}": partial(build, width, side)
        for name, build in (("mobilenet_v1", mobilenet_v1), ("mobilenet_v2", mobilenet_v2))
        for width in (0.25, 0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
        for side in (96, 128, 160, 192, 224)
    },
    **{f"efficientnet_lite{i}": partial(efficientnet_lite, *size) for i, size in enumerate(LITE)},
    **{
        f"mobilenet_v3-{size}{'-minimalistic' * minimal}-{width}": partial(
            mobilenet_v3, large=size == "large", width=width, minimal=minimal
        )
        for size in ("large", "small")
        for minimal in (False, True)
        for width in (0.75, 1.0)
    },
}


def architecture(network: str) -> str:
    """Return what all sizes of a network have in common, its name."""
    name = network.partition("-")[0]
    return name.rstrip("01234") if name.startswith("efficientnet") else name
