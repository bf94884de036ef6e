"""Deformable butterfly chains in .tflite files: batched products or grouped convolutions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from sepdeploy.exporters.tflite_file.format.graph import Array, Tensor
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.builder import FLOAT, Builder
from sepdeploy.exporters.tflite_file.values.context import Context
from sepdeploy.exporters.tflite_file.values.elementwise import add_constant
from sepdeploy.exporters.tflite_file.values.layout import Value
from sepdeploy.exporters.tflite_file.values.slices import emit_slice
from sepdeploy.structures import DebutSpec
from sepdeploy.structures.debut.chain import merge_all, merged_chain

Product = Callable[[Builder, Value, list[int], Array, str], Value]


def layer(
    product: Product,
    cuts: Sequence[int],
    ctx: Context,
    spec: DebutSpec,
    x: Value,
    factors: Sequence[Array],
    bias: Array,
) -> Value:
    """Emit the chain on rows (…, n_in), the factors between two cuts as one.

    Args:
        product: Writes one factor: (b, value, axes in memory with the contracted one last, its
            small matrices in the order of the others, role) → the value with these axes.
        cuts: Where the merged factors begin, and N.
        ctx: The graph under construction.
        spec: The chain.
        x: The input.
        factors: (G·t, r, s) each, input side first.
        bias: (n_out,).
    """
    b, chain = ctx.b, merged_chain(spec.chain, cuts)
    pairs = itertools.pairwise(cuts)
    merged = [merge_all(spec.chain[a:z], factors[a:z]) for a, z in pairs]
    rows, count = x.shape[:-1], len(chain)
    sizes = [s for _, s, _ in reversed(chain)]
    x = _padded(b, b.reshaped(x, (math.prod(rows), spec.in_features)), spec.widths[0])
    value = b.reshaped(x, (math.prod(rows), *sizes))
    order = list(range(count + 1))  # axis 0 are the samples, axis k the factor N + 1 − k
    for number, (factor, (r, s, _)) in enumerate(zip(merged, chain, strict=True), start=1):
        axis = count + 1 - number
        others = [a for a in order if a not in (0, axis)]
        logical = [a for a in range(1, count + 1) if a != axis]
        # logical order of the small matrices: what is left of the input, then of the output
        grid = factor.reshape(*(sizes[a - 1] for a in logical), r, s)
        places = [logical.index(a) for a in others]
        stack = grid.transpose(*places, count - 1, count).reshape(-1, r, s)
        value = product(b, value, [0, *others, axis], stack, f"factors.{number - 1}")
        sizes[axis - 1] = r
        order = [0, *others, axis]
    y = b.reshaped(value, (math.prod(rows), spec.widths[-1]))
    if spec.padded:
        shape = (math.prod(rows), spec.out_features)
        y = layout.plain(emit_slice(b, b.row_major(y).tensor, (0, 0), shape))
    y = b.reshaped(y, (*rows, spec.out_features))
    return add_constant(b, y, bias, "bias") if bias.any() else y


def batched(b: Builder, value: Value, axes: list[int], stack: Array, role: str) -> Value:
    """BATCH_MATMUL, all samples in each of the small products."""
    moved = [*axes[1:-1], 0, axes[-1]]
    n, r, s = stack.shape
    samples = value.shape[0]
    tensor = b.reshape(_in_order(b, value, moved), (n, samples, s))
    right = b.constant(np.ascontiguousarray(stack.swapaxes(1, 2)), role)
    out = b.op("BATCH_MATMUL", [tensor, right], (n, samples, r), dtype=FLOAT)
    return _read_back(out, value, moved, r)


def grouped(b: Builder, value: Value, axes: list[int], stack: Array, role: str) -> Value:
    """A 1×1 CONV_2D with a group per small product."""
    n, r, s = stack.shape
    samples = value.shape[0]
    tensor = b.reshape(_in_order(b, value, axes), (samples, 1, 1, n * s))
    options = {"padding": "VALID", "stride_w": 1, "stride_h": 1, "dilation_w": 1, "dilation_h": 1}
    operands = [
        tensor,
        b.constant(stack.reshape(n * r, 1, 1, s), role),
        b.constant(np.zeros(n * r, np.float32), "bias"),
    ]
    out = b.op("CONV_2D", operands, (samples, 1, 1, n * r), dtype=FLOAT, **options)
    return _read_back(out, value, axes, r)


def _in_order(b: Builder, value: Value, axes: Sequence[int]) -> Tensor:
    groups = value.groups()
    return b.ordered(value, [atom for axis in axes for atom in groups[axis]])


def _read_back(out: Tensor, value: Value, axes: Sequence[int], size: int) -> Value:
    shape = [value.shape[a] for a in axes[:-1]]
    memory = layout.plain(out, (*shape, size))
    return layout.transpose(memory, [axes.index(a) for a in range(len(axes))])


def _padded(b: Builder, x: Value, width: int) -> Value:
    spare = width - x.shape[1]
    if not spare:
        return x
    amounts = b.ints([[0, 0], [0, spare]], "paddings")
    out = b.op("PAD", [b.row_major(x).tensor, amounts], (x.shape[0], width), dtype=FLOAT)
    return layout.plain(out)
