"""Compute at export what does not depend on the input: shapes, masks, rearranged weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from sepdeploy.errors import GRAPH, TFLITE_FORM, BadInput
from sepdeploy.exporters.onnx_graph.folding import alone, promised_bytes
from sepdeploy.exporters.tflite_file.format.graph import BATCH, MAX_ELEMENTS, Array, is_batch
from sepdeploy.exporters.tflite_file.source import Node, as_float32
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item
from sepdeploy.exporters.tflite_file.values.layout import Constant

MAX_SIZES = 16  # numbers in a shape


def fold(ctx: Context, node: Node, inputs: Inputs) -> list[Item] | None:
    """Return a node's outputs if they are known at export, else None."""
    if node.domain:
        return None
    if node.op in ("Shape", "Size"):
        return [_shape_of(ctx, node, inputs)]
    if node.op == "Constant":
        return [_whole(_literal(node))]
    constants = [i for i in inputs if i is not None]
    if not all(isinstance(i, Constant) for i in constants):
        return None
    arrays = [i.data if isinstance(i, Constant) else None for i in inputs]
    if node.op == "ConstantOfShape":
        return [_filled(node, arrays)]
    if node.op == "Expand":
        return [_expanded(node, arrays)]
    repeats = node.op == "Tile" and any(_counts(a) for a in arrays if a is not None)
    if repeats or any(isinstance(i, Constant) and i.repeated for i in constants):
        return _for_every_batch(ctx, node, inputs)
    _check_growth(node, arrays)
    results = _evaluate(node, arrays, ctx.opset)
    if results is None:
        return None  # the converter knows whether it can be left to the runtime
    return [_whole(as_float32(np.asarray(out))) for out in results]


def _counts(data: Array) -> bool:
    """Whether a constant holds sizes that depend on the batch."""
    return data.dtype.kind == "i" and any(is_batch(int(n)) for n in data.reshape(-1)[:MAX_SIZES])


def _for_every_batch(ctx: Context, node: Node, inputs: Inputs) -> list[Item] | None:
    """Return the outputs for constants that are repeated over the batch, where they are so too.

    The node is computed for two batches; None where that does not give one sample many times.
    """
    computed = []
    for batch in (2, 3):
        arrays = [_at(i, batch) if isinstance(i, Constant) else None for i in inputs]
        _check_growth(node, arrays)
        results = _evaluate(node, arrays, ctx.opset)
        if results is None:
            return None
        computed.append([as_float32(np.asarray(out)) for out in results])
    outputs = [
        _once(two, three) or _tiled(ctx, two, three) for two, three in zip(*computed, strict=True)
    ]
    return None if None in outputs else [out for out in outputs if out is not None]


def _at(item: Constant, batch: int) -> Array:
    """Return a constant's numbers in a batch of so many samples."""
    data = item.data
    if _counts(data):
        data = np.array([n // BATCH * batch if is_batch(int(n)) else n for n in data.reshape(-1)])
        data = data.reshape(item.data.shape).astype(item.data.dtype)
    shape = tuple(d // BATCH * batch if is_batch(d) else d for d in item.shape)
    return np.broadcast_to(data, shape)


def _once(two: Array, three: Array) -> Constant | None:
    """Return what a batch of two and one of three have in common, None where samples differ."""
    if two.shape == three.shape:
        return _whole(two) if np.array_equal(two, three) else None
    if two.ndim != three.ndim:
        return None
    open_axes = [a for a, (m, n) in enumerate(zip(two.shape, three.shape, strict=True)) if m != n]
    if len(open_axes) != 1:
        return None
    axis = open_axes[0]
    first = np.take(two, [0], axis)
    sizes = (two.shape[axis], three.shape[axis])
    if sizes != (2, 3) or not (np.all(two == first) and np.all(three == first)):
        return None
    return Constant(first, (*two.shape[:axis], BATCH, *two.shape[axis + 1 :]))


def _tiled(ctx: Context, two: Array, three: Array) -> Item | None:
    """Return a piece that is repeated along one axis once per sample, None where it is not that."""
    if two.ndim != three.ndim:
        return None
    open_axes = [a for a, (m, n) in enumerate(zip(two.shape, three.shape, strict=True)) if m != n]
    if len(open_axes) != 1:
        return None
    axis = open_axes[0]
    size = three.shape[axis] - two.shape[axis]
    if size < 2 or two.shape[axis] != 2 * size:
        return None
    before, after = two.shape[:axis], two.shape[axis + 1 :]
    apart = [a.reshape(*before, -1, size, *after) for a in (two, three)]
    first = np.take(apart[0], [0], axis)
    if not all(np.all(a == first) for a in apart):
        return None
    whole = ctx.b.runtime(Constant(first, (*before, BATCH, size, *after)))
    return ctx.b.reshaped(whole, (*before, BATCH * size, *after))


def _whole(array: Array) -> Constant:
    return Constant(array, array.shape)


def _shape_of(ctx: Context, node: Node, inputs: Inputs) -> Constant:
    shape = ctx.item(node, inputs, 0).shape
    if node.op == "Size":
        return _whole(np.array(math.prod(shape), np.int64))
    start, end = ctx.integer(node, "start", 0), ctx.integer(node, "end", len(shape))
    return _whole(np.array(shape[start:end], np.int64))


def _literal(node: Node) -> Array:
    for name, value in node.attributes.items():
        if name == "value":
            return np.asarray(value)
        if name in ("value_int", "value_ints"):
            return np.array(value, np.int64)
        if name in ("value_float", "value_floats"):
            return np.array(value, np.float32)
    raise BadInput(f"{node} has no numeric value", hint=TFLITE_FORM)


def _filled(node: Node, arrays: Sequence[Array | None]) -> Constant:
    target = arrays[0]
    assert target is not None, "ConstantOfShape has one input"
    fill = np.asarray(node.attributes.get("value", np.zeros(1, np.float32))).reshape(-1)[:1]
    shape = tuple(int(d) for d in target.reshape(-1))
    return _repeated(node, fill.reshape((1,) * len(shape)), shape)


def _expanded(node: Node, arrays: Sequence[Array | None]) -> Constant:
    data, target = arrays[0], arrays[1]
    if data is None or target is None:
        raise BadInput(f"{node}: inputs are missing", hint=GRAPH)
    try:
        shape = _broadcast(data.shape, tuple(int(d) for d in target.reshape(-1)))
    except ValueError as error:
        raise BadInput(f"{node}: {error}", hint=GRAPH) from error
    return _repeated(node, data.reshape((1,) * (len(shape) - data.ndim) + data.shape), shape)


def _repeated(node: Node, data: Array, shape: tuple[int, ...]) -> Constant:
    """Return a constant repeated to a shape; over the batch only as a note."""
    if any(is_batch(d) for d in shape):
        return Constant(data, shape)
    if math.prod(shape) > MAX_ELEMENTS:
        raise _too_large(node, math.prod(shape))
    return Constant(np.broadcast_to(data, shape), shape)


def _too_large(node: Node, size: int) -> BadInput:
    return BadInput(
        f"{node} makes a constant of {size} values",
        hint="a range or tiling over the batch has no TFLite form; compute it per sample",
    )


def _broadcast(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    rank = max(len(first), len(second))
    padded = [(1,) * (rank - len(s)) + tuple(s) for s in (first, second)]
    dims = []
    for x, y in zip(*padded, strict=True):
        if x != y and 1 not in (x, y):
            message = f"{tuple(first)} and {tuple(second)} do not broadcast"
            raise ValueError(message)
        dims.append(max(x, y))
    return tuple(dims)


def _check_growth(node: Node, arrays: Sequence[Array | None]) -> None:
    given = [a for a in arrays if a is not None]
    size = sum(a.size for a in given)
    if node.op == "Tile" and len(given) > 1:
        size = given[0].size * math.prod(int(r) for r in given[1].reshape(-1))
    elif node.op == "Range" and len(given) == 3 and given[2].item():
        size = int(abs((given[1].item() - given[0].item()) / given[2].item()))
    elif node.op == "OneHot" and len(given) > 1:
        size = given[0].size * int(given[1].reshape(-1)[0])
    if size > MAX_ELEMENTS:
        raise _too_large(node, size)


def _evaluate(node: Node, arrays: Sequence[Array | None], opset: int) -> list[Array] | None:
    """Compute one node with ONNX's own reference implementation.

    None where its size, or what computing it takes, is not known before.
    """
    names = [f"i{k}" if a is not None else "" for k, a in enumerate(arrays)]
    outputs = [f"o{k}" if name else "" for k, name in enumerate(node.outputs)]
    proto = onnx.helper.make_node(node.op, names, outputs)
    for key, value in node.attributes.items():
        if isinstance(value, np.ndarray):
            value = onnx.numpy_helper.from_array(value)
        proto.attribute.append(onnx.helper.make_attribute(key, value))
    given = {n: a for n, a in zip(names, arrays, strict=True) if a is not None}
    size = promised_bytes(proto, given, opset)
    if math.isinf(size):
        return None
    if size > MAX_ELEMENTS * np.dtype(np.float32).itemsize:
        raise _too_large(node, int(size) // 4)
    try:
        results = ReferenceEvaluator(alone(proto, given, opset=opset)).run(None, given)
    except Exception as error:
        # The evaluator raises whatever numpy raises; any of it means the file is not usable.
        inputs = ", ".join(f"{a.dtype} {list(a.shape)}" for a in given.values())
        raise BadInput(
            f"{node} cannot be computed from its constants: {inputs or 'none'}", hint=GRAPH
        ) from error
    return [np.asarray(r) for r in results]
