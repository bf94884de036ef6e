"""Gemm and MatMul."""

from __future__ import annotations

import math

import numpy as np

from sepdeploy.errors import GRAPH, BadInput
from sepdeploy.exporters.tflite_file.format.graph import Array, describe, is_batch
from sepdeploy.exporters.tflite_file.ops.arithmetic import scalar
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.builder import FLOAT
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item
from sepdeploy.exporters.tflite_file.values.contract import contract
from sepdeploy.exporters.tflite_file.values.elementwise import binary, broadcast
from sepdeploy.exporters.tflite_file.values.layout import Constant, Value


def gemm(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Y = alpha A' B' + beta C, with B known at export."""
    x = ctx.value(node, inputs, 0)
    if ctx.integer(node, "transA", 0):
        x = layout.transpose(x, (1, 0))
    if isinstance(ctx.item(node, inputs, 1), Value):
        return [_computed_gemm(ctx, node, x, inputs)]
    weight = ctx.array(node, inputs, 1)
    weight = weight if ctx.integer(node, "transB", 0) else weight.T
    if weight.ndim != 2 or len(x.shape) != 2 or weight.shape[1] != x.shape[1]:
        raise BadInput(
            f"{node}: weight {weight.shape} does not fit input {describe(x.shape)}", hint=GRAPH
        )
    alpha, beta = ctx.number(node, "alpha", 1.0), ctx.number(node, "beta", 1.0)
    bias = ctx.optional(inputs, 2)
    row, rest = _split_bias(bias, beta, weight.shape[0])
    weight = weight if alpha == 1.0 else weight * np.float32(alpha)
    y = contract(ctx.b, x, 1, weight, row, "weight")
    return [_plus(ctx, y, rest, beta)]


def _computed_gemm(ctx: Context, node: Node, x: Value, inputs: Inputs) -> Value:
    """Gemm of two computed matrices."""
    y = ctx.value(node, inputs, 1)
    if ctx.integer(node, "transB", 0):
        y = layout.transpose(y, (1, 0))
    _check(node, x, y)
    out = batched_product(ctx, node, x, y)
    alpha, beta = ctx.number(node, "alpha", 1.0), ctx.number(node, "beta", 1.0)
    if alpha != 1.0:
        out = binary(ctx.b, "MUL", out, scalar(alpha))
    return _plus(ctx, out, ctx.optional(inputs, 2) if beta else None, beta)


def _plus(ctx: Context, y: Value, rest: Item | None, beta: float) -> Value:
    if rest is None:
        return y
    if beta != 1.0:
        rest = binary(ctx.b, "MUL", rest, scalar(beta))
    return binary(ctx.b, "ADD", y, rest)


def _split_bias(bias: Item | None, beta: float, units: int) -> tuple[Array | None, Item | None]:
    """Return the part of C that fits FULLY_CONNECTED's bias, and what has to be added after."""
    if bias is None or beta == 0.0:
        return None, None
    if isinstance(bias, Constant):
        data = bias.data
        if data.size == 1 or (data.size == units and data.shape[-1] == units):
            return np.broadcast_to(data.reshape(-1) * np.float32(beta), (units,)), None
    return None, bias


def matmul(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Batched matrix product; one of the two may be a constant."""
    first, second = ctx.item(node, inputs, 0), ctx.item(node, inputs, 1)
    _check(node, first, second)
    for item in (first, second):
        if isinstance(item, Constant) and any(is_batch(d) for d in item.shape[-2:]):
            item.whole(node)  # its rows or columns are the samples: they would be mixed
    first, second = _once(first, second), _once(second, first)
    if isinstance(first, Value) and isinstance(second, Constant) and second.data.ndim <= 2:
        return [_times_constant(ctx, first, second, ctx.optional_array(node, inputs, 2))]
    if isinstance(first, Constant) and isinstance(second, Value) and first.data.ndim <= 2:
        return [_constant_times(ctx, first, second)]
    return [batched_product(ctx, node, ctx.b.runtime(first), ctx.b.runtime(second))]


def _once(item: Item, other: Item) -> Item:
    """Return a matrix that is repeated for every sample of the other operand as that matrix."""
    if not isinstance(item, Constant) or not item.repeated or not isinstance(other, Value):
        return item
    lead = item.shape[:-2]
    same = lead == other.shape[:-2] and item.data.shape[-2:] == item.shape[-2:]
    if not same or math.prod(item.data.shape[:-2]) != 1:
        return item
    data = item.data.reshape(item.data.shape[-2:])
    return Constant(data, data.shape)


def _check(node: Node, first: Item, second: Item) -> None:
    if not first.shape or not second.shape:
        raise BadInput(f"{node}: a scalar has no matrix product", hint=GRAPH)
    inner = second.shape[-2] if len(second.shape) > 1 else second.shape[0]
    if first.shape[-1] != inner:
        texts = f"{describe(first.shape)} and {describe(second.shape)}"
        raise BadInput(f"{node}: shapes {texts} do not multiply", hint=GRAPH)


def _times_constant(ctx: Context, x: Value, weight: Constant, bias: Array | None) -> Value:
    matrix = weight.data.reshape(weight.data.shape[0], -1)
    y = contract(ctx.b, x, len(x.shape) - 1, np.ascontiguousarray(matrix.T), bias, "weight")
    return ctx.b.reshaped(y, y.shape[:-1]) if weight.data.ndim == 1 else y


def _constant_times(ctx: Context, weight: Constant, x: Value) -> Value:
    matrix = weight.data.reshape(-1, weight.data.shape[-1])
    vector = len(x.shape) == 1
    axis = 0 if vector else len(x.shape) - 2
    y = contract(ctx.b, x, axis, matrix, None, "weight")
    if weight.data.ndim == 1:
        y = ctx.b.reshaped(y, (*y.shape[:axis], *y.shape[axis + 1 :]))
    return y


def batched_product(ctx: Context, node: Node, x: Value, y: Value) -> Value:
    """Emit BATCH_MATMUL of two computed values."""
    b = ctx.b
    if len(x.shape) < 2 or len(y.shape) < 2:
        raise BadInput(
            f"{node}: a matrix-vector product of two computed values has no TFLite form",
            hint="give the vector a second dimension of size 1",
        )
    lead = broadcast(b, [x.shape[:-2], y.shape[:-2]])
    out_shape = (*lead, x.shape[-2], y.shape[-1])
    if len(lead) > 2 and x.shape[:-2] == y.shape[:-2]:
        x = b.reshaped(x, (math.prod(lead), *x.shape[-2:]))
        y = b.reshaped(y, (math.prod(lead), *y.shape[-2:]))
        lead = (math.prod(lead),)
    left = b.arranged(x, range(len(x.shape)))
    right = b.arranged(y, range(len(y.shape)))
    rank = max(len(left.shape), len(right.shape), 3)
    left = b.reshape(left, (1,) * (rank - len(left.shape)) + left.shape)
    right = b.reshape(right, (1,) * (rank - len(right.shape)) + right.shape)
    product = (*lead, *out_shape[-2:])
    shape = (1,) * (rank - len(product)) + product
    out = b.op("BATCH_MATMUL", [left, right], shape, dtype=FLOAT)
    return b.reshaped(layout.plain(out), out_shape)
