"""Kronecker layers as standard ONNX ops: the candidate forms.

All forms compute y = Σ_k (A_1k ⊗ … ⊗ A_dk) x + b for x of shape (M, n_in). What was measured
best: flat 2-D GEMMs with the constant on the right, where the runtime packs it once
(``gemm2d``); two batched products when both factors are square-ish and small (``mm``).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from sepdeploy.exporters.families.emit import Emitter, Weight
from sepdeploy.structures import KronSpec

BATCH = -1  # the axis of samples, in lists of axes
TERM = -2  # the axis of summed terms

Weights = Sequence[Weight]
Order = Sequence[int] | None


def gemm2d(
    e: Emitter, spec: KronSpec, x: str, factors: Weights, bias: Weight, order: Order = None
) -> str:
    """One flat GEMM per mode, the mode moved last before it.

    K terms: the first GEMM writes all terms side by side (factors stacked along the output), the
    last one sums them (factors stacked along the input), those between run once per term as a
    batched product.

    Args:
        e: Where nodes go.
        spec: Shapes of the layer.
        x: Value of shape (M, n_in).
        factors: One (K, o, i) stack per mode.
        bias: Shape (n_out,).
        order: Modes in the order of contraction; the cheapest one by default.

    Returns:
        The value of shape (M, n_out).
    """
    state = _State(e, x, factors)
    modes = list(spec.order if order is None else order)
    several = spec.terms > 1
    for step, mode in enumerate(modes):
        if not several:
            state.single(mode, factors[mode])
        elif step == 0:
            state.fan_out(mode, factors[mode])
        elif step == len(modes) - 1:
            state.sum_terms(mode, factors[mode])
        else:
            state.per_term(mode, factors[mode])
    return state.finish(bias)


class _State:
    """An activation on its way through the modes: its value, its axes and its present shape."""

    def __init__(self, e: Emitter, x: str, factors: Sequence[Weight]) -> None:
        self.e, self.value = e, x
        self.sizes = {BATCH: -1, TERM: factors[0].shape[0]}
        self.sizes |= {mode: f.shape[2] for mode, f in enumerate(factors)}
        self.modes = list(range(len(factors)))
        self.axes = [BATCH, *self.modes]

    def _arrange(self, axes: list[int]) -> None:
        """Bring the axes into this order; leaves the value in any shape with that order."""
        if axes != self.axes:
            e, sizes = self.e, self.sizes
            shaped = e.reshape(self.value, *(sizes[a] for a in self.axes))
            perm = [self.axes.index(a) for a in axes]
            self.value, self.axes = e.node("Transpose", shaped, perm=perm), axes

    def _others(self, *last: int) -> list[int]:
        return [a for a in self.axes if a not in last]

    def _gemm(self, width: int, weight: Weight) -> None:
        rows = self.e.reshape(self.value, -1, width)
        self.value = self.e.node("Gemm", rows, self.e.use(weight), transB=1)

    def single(self, mode: int, factor: Weight) -> None:
        """Contract one mode of the only term."""
        _, o, i = factor.shape
        self._arrange([*self._others(mode), mode])
        self._gemm(i, self.e.weight_reshape(factor, o, i))
        self.sizes[mode] = o

    def fan_out(self, mode: int, factor: Weight) -> None:
        """First contraction of several terms: (…, i) becomes (…, K, o)."""
        _, o, i = factor.shape
        self._arrange([*self._others(mode), mode])
        # Either order lets the next transpose move a single axis past all others.
        ahead = mode == self.modes[-1]
        stacked = factor if ahead else self.e.weight_transpose(factor, 1, 0, 2)
        self._gemm(i, self.e.weight_reshape(stacked, -1, i))
        self.axes = [*self._others(mode), *((TERM, mode) if ahead else (mode, TERM))]
        self.sizes[mode] = o

    def per_term(self, mode: int, factor: Weight) -> None:
        """A contraction in between: one product per term, terms as the batch of MatMul."""
        k, o, i = factor.shape
        self._arrange([TERM, *self._others(TERM, mode), mode])
        e = self.e
        stacked = e.reshape(self.value, k, -1, i)
        right = e.weight_transpose(factor, 0, 2, 1)
        self.value = e.node("MatMul", stacked, e.use(right))
        self.sizes[mode] = o

    def sum_terms(self, mode: int, factor: Weight) -> None:
        """Last contraction of several terms: (…, K, i) becomes (…, o)."""
        k, o, i = factor.shape
        ahead = mode == self.modes[-1]
        self._arrange([*self._others(TERM, mode), *((TERM, mode) if ahead else (mode, TERM))])
        stacked = self.e.weight_transpose(factor, *((1, 0, 2) if ahead else (1, 2, 0)))
        self._gemm(self.e.product(k, i), self.e.weight_reshape(stacked, o, -1))
        self.axes = self._others(TERM)
        self.sizes[mode] = o

    def finish(self, bias: Weight) -> str:
        """The value as (M, n_out), bias added."""
        before = self.value
        self._arrange([BATCH, *self.modes])
        if self.value == before:
            return self.e.add_bias(self.e.reshape(self.value, -1, bias.shape[0]), bias)
        # Added before the reshape, the bias does not stand between two reshapes.
        shaped = self.e.weight_reshape(bias, *(self.sizes[m] for m in self.modes))
        return self.e.reshape(self.e.add_bias(self.value, shaped), -1, bias.shape[0])


def mm(
    e: Emitter, spec: KronSpec, x: str, factors: Weights, bias: Weight, order: Order = None
) -> str:
    """One product per mode in place: flat for the last mode, a shared left factor for others.

    Nothing is moved, but the left factors are not packed and their products are batched. Several
    terms need two modes: the last one writes all terms side by side, and (i, K, o) read as
    (i·K, o) lets the first one sum them.
    """
    modes = list(range(len(factors)))
    terms = factors[0].shape[0]
    several = spec.terms > 1
    sizes = [f.shape[2] for f in factors]
    for mode in [1, 0] if several else order or spec.order:
        factor = factors[mode]
        _, o, i = factor.shape
        if mode == modes[-1]:
            rows = e.reshape(x, -1, i)
            x = e.node("Gemm", rows, e.use(e.weight_reshape(factor, -1, i)), transB=1)
        else:
            stacked = e.weight_transpose(factor, 1, 2, 0) if several else factor
            left = e.weight_reshape(stacked, o, -1)
            right = functools.reduce(e.product, sizes[mode + 1 :])
            columns = e.reshape(x, -1, e.product(i, terms) if several else i, right)
            x = e.node("MatMul", e.use(left), columns)
        sizes[mode] = o
    if mode:
        return e.add_bias(e.reshape(x, -1, bias.shape[0]), bias)
    # Added before the reshape, the bias does not stand between two reshapes.
    x = e.add_bias(x, e.weight_reshape(bias, o, right))
    return e.reshape(x, -1, bias.shape[0])


def tt(
    e: Emitter, spec: KronSpec, x: str, factors: Weights, bias: Weight, order: Order = None
) -> str:
    """Both constants on the right, a transpose after each product; two modes, one term."""
    value = e.reshape(x, -1, *(f.shape[2] for f in factors))
    for factor in reversed(factors):
        _, o, i = factor.shape
        right = e.weight_transpose(e.weight_reshape(factor, o, i), 1, 0)
        value = e.node("MatMul", value, e.use(right))
        value = e.node("Transpose", value, perm=[0, 2, 1])
    return e.add_bias(e.reshape(value, -1, bias.shape[0]), bias)


def conv2d(
    e: Emitter, spec: KronSpec, x: str, factors: Weights, bias: Weight, order: Order = None
) -> str:
    """B as a flat GEMM, A as a 1×1 convolution over its rows; two modes."""
    (terms, m1, n1), (_, m2, n2) = (f.shape for f in factors)
    rows = e.reshape(x, -1, n2)
    inner = e.node("Gemm", rows, e.use(e.weight_reshape(factors[1], -1, n2)), transB=1)
    stacked = e.weight_transpose(factors[0], 1, 2, 0)
    channels = e.product(n1, terms)
    kernel = e.weight_reshape(stacked, m1, -1, 1, 1)
    planes = e.reshape(inner, -1, channels, m2, 1)
    outer = e.node("Conv", planes, e.use(kernel), kernel_shape=[1, 1])
    return e.add_bias(e.reshape(outer, -1, bias.shape[0]), bias)
