"""How much a convolution can stretch its input, from its kernel alone."""

from __future__ import annotations

import math

import numpy as np

from sepdeploy.structures.base import Array
from sepdeploy.structures.singular import largest_singular_value


def convolution_bound(kernel: Array, groups: int = 1, overlap: int = 0) -> float:
    """Return an upper bound of the spectral norm of a convolution, for images of any size.

    The smallest of three bounds, which hold for zero and circular padding and for every stride and
    dilation: Σ_t ‖W_t‖₂ over the T places t of the kernel, since a convolution is the sum of T
    shifts with one matrix each; √overlap times the norm of W unfolded to (outputs, rest), since a
    pixel is in at most so many patches; √T times the norm of W unfolded to (inputs, rest), the same
    for the adjoint. For T = 1 all are the norm itself. A transposed convolution is the adjoint of
    one and has its norm.

    Args:
        kernel: (o, c, *places), (c, o, *places) of a transposed convolution. In both layouts the
            first axis is the one that is cut into groups.
        groups: A grouped convolution maps disjoint channels; its norm is the largest of theirs.
        overlap: How many patches a pixel can be in, 0 = T. With strides as large as the kernel
            patches are disjoint and the bound is the norm.
    """
    parts = np.split(kernel.reshape(*kernel.shape[:2], -1), groups)
    return max(_bound(part, overlap) for part in parts)


def _bound(kernel: Array, overlap: int) -> float:
    first, second, places = kernel.shape
    by_place = sum(largest_singular_value(kernel[:, :, t]) for t in range(places))
    if places == 1:
        return by_place
    outputs = largest_singular_value(kernel.reshape(first, -1))
    inputs = largest_singular_value(kernel.transpose(1, 0, 2).reshape(second, -1))
    return min(by_place, math.sqrt(overlap or places) * outputs, math.sqrt(places) * inputs)
