"""Deformable butterfly chains as standard ONNX ops: grouped 1×1 convolutions, batched products.

Features are a product of axes: input axes c_N … c_1 of sizes s_N … s_1, of which factor i turns
c_i into b_i of size r_i; in the end b_N … b_1 are left. A product wants its axis last in memory
and does not care how the others lie, since its small matrices can be stored in any order.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

from sepdeploy.exporters.families.emit import Emitter, Weight
from sepdeploy.structures import DebutSpec

BATCH = 0  # the axis of samples; the axis of factor i is i, before it and behind
Weights = Sequence[Weight]


def merge_factors(e: Emitter, factors: Weights, cuts: Sequence[int]) -> list[Weight]:
    """The factors between two cuts as one each."""
    merged, t = [], 1
    for start, end in itertools.pairwise(cuts):
        product = factors[start]
        for factor in factors[start + 1 : end]:
            product = _merge_two(e, product, factor, t)
        merged.append(product)
        t = e.product(t, product.shape[1])
    return merged


def _merge_two(e: Emitter, first: Weight, second: Weight, t: int) -> Weight:
    """As ``chain.merge_two``."""
    (_, r1, s1), (_, r2, s2) = first.shape, second.shape
    low = e.weight_transpose(e.weight_reshape(first, -1, s2, t, r1, s1), 0, 2, 3, 1, 4)
    high = e.weight_transpose(e.weight_reshape(second, -1, r1, t, r2, s2), 0, 2, 3, 1, 4)
    low = e.weight_reshape(low, -1, t, 1, r1, s2, s1)
    high = e.weight_reshape(high, -1, t, r2, r1, s2, 1)
    product = e.weight_product(low, high)
    return e.weight_reshape(product, -1, e.product(r2, r1), e.product(s2, s1))


class _State:
    """An activation on its way through the factors: its value, its axes in memory, their sizes."""

    def __init__(self, e: Emitter, x: str, factors: Weights, axes: Sequence[int]) -> None:
        self.e, self.value, self.axes = e, x, list(axes)
        self.count = len(factors)
        self.sizes = {BATCH: -1} | {i: f.shape[2] for i, f in enumerate(factors, start=1)}

    def arrange(self, axes: list[int]) -> None:
        """Bring the axes into this order, neighbours that stay together moved as one."""
        if axes == self.axes:
            return
        where = {axis: place for place, axis in enumerate(axes)}
        runs: list[list[int]] = []
        for axis in self.axes:
            follows = bool(runs) and where[axis] == where[runs[-1][-1]] + 1
            runs[-1:] = [[*runs[-1], axis]] if follows else [*runs[-1:], [axis]]
        moved = sorted(range(len(runs)), key=lambda k: where[runs[k][0]])
        shaped = self.e.reshape(self.value, *(self.size(run) for run in runs))
        self.value = self.e.node("Transpose", shaped, perm=moved)
        self.axes = axes

    def size(self, axes: Sequence[int]) -> int:
        """Elements of neighbouring axes together; -1 with the samples among them."""
        if BATCH in axes:
            return -1
        return functools.reduce(self.e.product, [self.sizes[a] for a in axes] or [1])

    def stacked(self, factor: Weight, number: int) -> Weight:
        """A factor's small matrices in the order that the other axes have in memory."""
        logical = [*range(self.count, number, -1), *range(number - 1, 0, -1)]
        wanted = [a for a in self.axes if a not in (BATCH, number)]
        if wanted == logical:
            return factor
        _, r, s = factor.shape
        split = self.e.weight_reshape(factor, *(self.sizes[a] for a in logical), r, s)
        perm = [*(logical.index(a) for a in wanted), len(logical), len(logical) + 1]
        return self.e.weight_reshape(self.e.weight_transpose(split, *perm), -1, r, s)


def conv(
    e: Emitter, spec: DebutSpec, x: str, factors: Weights, bias: Weight, cuts: Sequence[int]
) -> str:
    """A grouped 1×1 convolution per merged factor, features as channels.

    Args:
        e: Where nodes go; not a function body, where groups are no numbers.
        spec: The chain.
        x: Value of shape (M, n_in).
        factors: (G·t, r, s) each, input side first.
        bias: Shape (n_out,).
        cuts: Where the merged factors begin, and N.

    Returns:
        The value of shape (M, n_out).
    """
    merged = merge_factors(e, factors, cuts)
    state = _State(e, _padded(e, spec, x, factors), merged, [BATCH, *range(len(merged), 0, -1)])
    for number, factor in enumerate(merged, start=1):
        state.arrange([*(a for a in state.axes if a != number), number])
        _, r, s = factor.shape
        kernel = e.weight_reshape(state.stacked(factor, number), -1, s, 1, 1)
        groups = kernel.shape[0] // r
        planes = e.reshape(state.value, -1, groups * s, 1, 1)
        state.value = e.node("Conv", planes, e.use(kernel), group=groups, kernel_shape=[1, 1])
        state.sizes[number] = r
    return _finished(state, spec, bias)


def bmm(
    e: Emitter, spec: DebutSpec, x: str, factors: Weights, bias: Weight, cuts: Sequence[int]
) -> str:
    """A batched product per merged factor, all samples in each of its small products.

    Takes what ``conv`` takes, in function bodies too.
    """
    merged = merge_factors(e, factors, cuts)
    state = _State(e, _padded(e, spec, x, factors), merged, [BATCH, *range(len(merged), 0, -1)])
    for number, factor in enumerate(merged, start=1):
        others = [a for a in state.axes if a not in (BATCH, number)]
        state.arrange([*others, BATCH, number])
        _, r, s = factor.shape
        rows = e.reshape(state.value, state.size(others), -1, s)
        right = e.weight_transpose(state.stacked(factor, number), 0, 2, 1)
        state.value = e.node("MatMul", rows, e.use(right))
        state.sizes[number] = r
    return _finished(state, spec, bias)


def _finished(state: _State, spec: DebutSpec, bias: Weight) -> str:
    """The value as (M, n_out), cropped, bias added."""
    e = state.e
    state.arrange([BATCH, *range(state.count, 0, -1)])
    y = e.reshape(state.value, -1, state.size(state.axes[1:]))
    if spec.padded:
        y = e.node("Slice", y, e.ints([0]), e.ints([bias.shape[0]]), e.ints([1]))
    return e.add_bias(y, bias)


def _padded(e: Emitter, spec: DebutSpec, x: str, factors: Weights) -> str:
    """The input with zeros behind it, where the chain is wider; in a body wherever one is."""
    if not spec.padded:
        return x
    stack, _, s = factors[0].shape
    width = e.ints([e.product(stack, s)])
    if e.inside_function:
        features = e.node("Shape", x, start=1, end=2)
        spare = e.node("Sub", width, features)
    else:
        spare = e.ints([spec.widths[0] - spec.in_features])
    zero = e.ints([0])
    return e.node("Pad", x, e.node("Concat", zero, zero, zero, spare, axis=0))
