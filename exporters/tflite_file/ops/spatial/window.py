"""Sliding windows: padding and output sizes of convolutions and pools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sepdeploy.errors import GRAPH, BadInput
from sepdeploy.exporters.tflite_file.format.graph import Tensor, bounded
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values.builder import Builder
from sepdeploy.exporters.tflite_file.values.context import Context

NHWC = (0, 2, 3, 1)


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a window: sizes and padding in elements."""

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    out: int

    @property
    def reach(self) -> int:
        """Elements that one window spans."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def used_after(self) -> int:
        """Padding behind the data that some window really reaches."""
        return max((self.out - 1) * self.stride + self.reach - self.size - self.before, 0)

    @property
    def unpadded(self) -> bool:
        """Whether no window reaches outside the data."""
        return self.before == 0 and self.used_after == 0

    @property
    def is_same(self) -> bool:
        """Whether TFLite's SAME padding is this padding."""
        total = max((self.out - 1) * self.stride + self.reach - self.size, 0)
        return self.out == -(-self.size // self.stride) and self.before == total // 2


def read_axes(ctx: Context, node: Node, sizes: Sequence[int], kernel: Sequence[int]) -> list[Axis]:
    """Return the window along each spatial axis from a node's attributes.

    Raises:
        BadInput: The attributes contradict each other, or leave nothing of the image.
    """
    n = len(sizes)
    strides = ctx.ints(node, "strides", [1] * n)
    dilations = ctx.ints(node, "dilations", [1] * n)
    pads = ctx.ints(node, "pads", [0] * (2 * n))
    auto = ctx.text(node, "auto_pad", "NOTSET")
    ceil_mode = ctx.integer(node, "ceil_mode", 0) == 1
    if not len(kernel) == len(strides) == len(dilations) == len(pads) / 2 == n:
        raise BadInput(
            f"{node}: kernel, strides, pads and dilations do not fit {n} axes", hint=GRAPH
        )
    axes = []
    for i, size in enumerate(sizes):
        reach = (kernel[i] - 1) * dilations[i] + 1
        before, after = _padding(auto, size, reach, strides[i], (pads[i], pads[n + i]))
        out = _out_size(size + before + after, reach, strides[i], ceil_mode, size + before)
        bounded(out, node)
        if out < 1 or min(kernel[i], strides[i], dilations[i]) < 1 or min(before, after) < 0:
            raise BadInput(
                f"{node}: a window of {reach} with padding {(before, after)} does not fit {size}",
                hint=GRAPH,
            )
        axes.append(Axis(size, kernel[i], strides[i], dilations[i], before, after, out))
    return axes


def _padding(
    auto: str, size: int, reach: int, stride: int, pads: tuple[int, int]
) -> tuple[int, int]:
    if auto in ("NOTSET", ""):
        return pads
    if auto == "VALID":
        return 0, 0
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    small, large = total // 2, total - total // 2
    return (small, large) if auto == "SAME_UPPER" else (large, small)


def _out_size(padded: int, reach: int, stride: int, ceil_mode: bool, limit: int) -> int:
    if not ceil_mode:
        return (padded - reach) // stride + 1
    out = -(-(padded - reach) // stride) + 1
    # A window that would start in the padding behind the data is dropped.
    return out - 1 if (out - 1) * stride >= limit else out


def apply_padding(
    b: Builder, tensor: Tensor, axes: Sequence[Axis], fill: float | None
) -> tuple[Tensor, str]:
    """Return the (N, H, W, C) tensor to slide over and TFLite's padding mode for it.

    Args:
        b: The graph under construction.
        tensor: The image.
        axes: Its two window axes.
        fill: What padding holds; None if SAME padding must be avoided and zeros written.

    Returns:
        The tensor, padded by an operator only where TFLite's own modes do not fit, and the mode.
    """
    if all(a.unpadded for a in axes):
        return tensor, "VALID"
    if fill is not None and all(a.is_same for a in axes):
        return tensor, "SAME"
    pads = [[0, 0], *([a.before, a.used_after] for a in axes), [0, 0]]
    shape = [d + sum(p) for d, p in zip(tensor.shape, pads, strict=True)]
    operand = b.ints(pads, "pads")
    if not fill:
        return b.op("PAD", [tensor, operand], shape), "VALID"
    value = b.constant(np.array([fill], tensor.dtype), "pad_value")
    return b.op("PADV2", [tensor, operand, value], shape), "VALID"
