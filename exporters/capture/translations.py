"""PyTorch operators whose usual ONNX translation is slow, open in its shapes, or absent.

Each function takes an operator's arguments, tensors as values of the graph under construction, and
emits standard nodes. ``ops`` is the opset object that makes them. What they share: sizes are
written as constants, so that no shape arithmetic stays in the graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Value = Any
IMAGE_AXES = (2, 3)


def attention(
    ops: Any,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """Scaled dot-product attention: softmax(scale·Q Kᵀ + mask) V.

    The scale goes onto Q, which is smaller than the scores.

    Raises:
        NotImplementedError: Sizes that are not known.
    """
    features, axes = query.shape[-1], list(range(len(key.shape)))
    if not isinstance(features, int):
        raise NotImplementedError("attention over features of open size")
    if enable_gqa:
        key, value = (_repeat_heads(ops, x, query.shape[-3]) for x in (key, value))
    factor = 1 / math.sqrt(features) if scale is None else float(scale)
    turned = ops.Transpose(key, perm=[*axes[:-2], axes[-1], axes[-2]])
    scores = ops.MatMul(ops.Mul(query, _number(ops, factor)), turned)
    if is_causal:
        rows, columns = query.shape[-2], key.shape[-2]
        if not (isinstance(rows, int) and isinstance(columns, int)):
            raise NotImplementedError("causal attention over an open number of tokens")
        mask = np.triu(np.full((rows, columns), -np.inf, np.float32), 1)
        scores = ops.Add(scores, constant(ops, mask))
    if attn_mask is not None:
        if attn_mask.dtype.is_floating_point():
            scores = ops.Add(scores, attn_mask)
        else:  # a row without any key attends to nothing: its softmax may not become 0/0
            lowest = _number(ops, float(np.finfo(np.float32).min))
            scores = ops.Where(attn_mask, scores, lowest)
    weights = ops.Softmax(scores, axis=-1)
    if attn_mask is not None and not attn_mask.dtype.is_floating_point():
        weights = ops.Where(attn_mask, weights, _number(ops, 0.0))
    return ops.MatMul(weights, value)


def _repeat_heads(ops: Any, x: Value, heads: int) -> Value:
    """(N, h, tokens, features) with each of the h heads written ``heads`` / h times in a row."""
    own = x.shape[-3]
    if not (isinstance(heads, int) and isinstance(own, int)):
        raise NotImplementedError("grouped attention over an open number of heads")
    order = np.repeat(np.arange(own, dtype=np.int64), heads // own)
    return ops.Gather(x, constant(ops, order), axis=len(x.shape) - 3)


def adaptive_average(ops: Any, x: Value, output_size: Sequence[int]) -> Value:
    """Adaptive average pooling of images: AveragePool where the windows are all alike.

    Elsewhere each side is multiplied by its matrix of averages, for a window of one row or column
    is the product of both.
    """
    sides = _sides(x, output_size)
    if all(new == 1 for _, new in sides):
        return ops.GlobalAveragePool(x)
    if all(old % new == 0 for old, new in sides):
        kernel = [old // new for old, new in sides]
        return ops.AveragePool(x, kernel_shape=kernel, strides=kernel)
    (height, rows), (width, columns) = sides
    if width != columns:
        x = ops.MatMul(x, constant(ops, window_means(width, columns).T))
    if height != rows:
        x = ops.MatMul(constant(ops, window_means(height, rows)), x)
    return x


def adaptive_maximum(ops: Any, x: Value, output_size: Sequence[int]) -> tuple[Value]:
    """Adaptive maximum pooling of images, without the indices: a model that reads them is refused.

    Where the windows differ in size, each side is cut into them and put together again.
    """
    sides = _sides(x, output_size)
    if all(old % new == 0 for old, new in sides):
        kernel = [old // new for old, new in sides]
        pooled, _ = ops.MaxPool(x, kernel_shape=kernel, strides=kernel)
        return (pooled,)
    for axis, (old, new) in zip(IMAGE_AXES, sides, strict=True):
        if old == new:
            continue
        parts = []
        for start, stop in windows(old, new):
            part = ops.Slice(x, *(_whole(ops, n) for n in (start, stop, axis)))
            parts.append(ops.ReduceMax(part, _whole(ops, axis), keepdims=1))
        x = ops.Concat(*parts, axis=axis)
    return (x,)


def average_pool(
    ops: Any,
    x: Value,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    divisor: int,
) -> Value:
    """Average pooling of images that divides by another number than the windows' size."""
    kernel, pads = [int(n) for n in kernel_size], [int(n) for n in padding] * 2
    strides = [int(n) for n in stride] or kernel
    whole = ops.AveragePool(x, kernel_shape=kernel, strides=strides, pads=pads, count_include_pad=1)
    return ops.Mul(whole, _number(ops, math.prod(kernel) / divisor))


def running_norm(
    ops: Any, x: Value, weight: Value, bias: Value, mean: Value, variance: Value, eps: float
) -> Value:
    """Instance normalisation by running statistics: what batch normalisation does with them."""
    one, zero = (
        constant(ops, np.full(x.shape[1], value, np.float32)) if given is None else given
        for given, value in ((weight, 1), (bias, 0))
    )
    return ops.BatchNormalization(x, one, zero, mean, variance, epsilon=eps)


def resize(
    ops: Any,
    x: Value,
    output_size: Sequence[int] | None,
    scale_factors: Sequence[float] | None,
    mode: str,
    align_corners: bool = False,
) -> Value:
    """Resize images to fixed sizes or by factors, as ``torch.nn.functional.interpolate`` does.

    Raises:
        NotImplementedError: Sizes that depend on the data.
    """
    known = [n for n in output_size or () if isinstance(n, int)]
    if scale_factors is None and len(known) != len(IMAGE_AXES):
        raise NotImplementedError("resizing to a size that is not a number")
    coordinates = "asymmetric" if mode == "nearest" else "half_pixel"
    if align_corners:
        coordinates = "align_corners"
    target: tuple[Value, Value]
    if scale_factors is None:
        target = None, constant(ops, np.array(known, np.int64))
    else:
        target = constant(ops, np.array(scale_factors, np.float32)), None
    return ops.Resize(
        x,
        None,
        *target,
        axes=list(IMAGE_AXES),
        mode=mode,
        coordinate_transformation_mode=coordinates,
        nearest_mode="floor",
    )


def windows(old: int, new: int) -> list[tuple[int, int]]:
    """The first and last + 1 place of each adaptive pooling window along one side."""
    return [(i * old // new, -(-(i + 1) * old // new)) for i in range(new)]


def window_means(old: int, new: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The (new, old) matrix that averages each window."""
    matrix = np.zeros((new, old), np.float32)
    for row, (start, stop) in zip(matrix, windows(old, new), strict=True):
        row[start:stop] = 1 / (stop - start)
    return matrix


def constant(ops: Any, array: np.ndarray[Any, Any]) -> Value:
    """A constant of the graph under construction."""
    from onnx import numpy_helper

    return ops.Constant(value=numpy_helper.from_array(np.ascontiguousarray(array)))


def _number(ops: Any, value: float) -> Value:
    return constant(ops, np.array(value, np.float32))


def _whole(ops: Any, value: int) -> Value:
    return constant(ops, np.array([value], np.int64))


def _sides(x: Value, output_size: Sequence[int]) -> list[tuple[int, int]]:
    """Old and new length of both sides of an image, or of a batch of images.

    Raises:
        NotImplementedError: Not a batch of images of known size.
    """
    old = list(x.shape)[2:]
    new = [int(n) for n in output_size]
    if len(x.shape) != 4 or not all(isinstance(n, int) for n in old):
        raise NotImplementedError("adaptive pooling of anything but a batch of images")
    return list(zip(old, new, strict=True))
