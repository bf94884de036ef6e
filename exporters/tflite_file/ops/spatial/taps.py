"""Sliding windows over any number of axes, dilated too, one axis after the other.

What no kernel of the runtimes does: each axis is reduced by joining as many slices as its window
has places. Maxima and sums can be taken axis by axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from sepdeploy.exporters.tflite_file.format.graph import Array, bounded
from sepdeploy.exporters.tflite_file.ops.select import padded, sliced
from sepdeploy.exporters.tflite_file.ops.spatial.window import Axis
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values.context import Context
from sepdeploy.exporters.tflite_file.values.elementwise import binary
from sepdeploy.exporters.tflite_file.values.layout import Value

MOST_TAPS = 256


def windowed(
    ctx: Context, node: Node, x: Value, axes: Sequence[Axis], kind: str, fill: float
) -> Value:
    """Join what each window covers.

    Args:
        ctx: The graph under construction.
        node: For messages.
        x: (N, C, …).
        axes: One for each dimension from the third on.
        kind: "MAXIMUM" or "ADD".
        fill: What padding holds.
    """
    bounded(sum(a.kernel for a in axes), node, MOST_TAPS)
    for dim, axis in enumerate(axes, start=2):
        if not axis.unpadded:
            x = padded(ctx, node, x, {dim: (axis.before, axis.used_after)}, fill)
        starts = (tap * axis.dilation for tap in range(axis.kernel))
        parts = [sliced(ctx, node, x, dim, s, axis.out, axis.stride) for s in starts]
        x = reduce(lambda a, b: binary(ctx.b, kind, a, b), parts)
    return x


def covered(axes: Sequence[Axis], *, counted: bool) -> Array:
    """Return how many elements each window holds; ``counted`` padding is among them."""
    found = np.ones(())
    for axis in axes:
        starts = np.arange(axis.out)[:, None] * axis.stride - axis.before
        places = starts + np.arange(axis.kernel) * axis.dilation
        low, high = (-axis.before, axis.size + axis.after) if counted else (0, axis.size)
        found = np.multiply.outer(found, ((places >= low) & (places < high)).sum(axis=1))
    return np.asarray(found)
