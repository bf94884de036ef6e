"""Resize, and moving values between depth and space."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from sepdeploy.errors import GRAPH, TFLITE_FORM, BadInput
from sepdeploy.exporters.tflite_file.format.graph import Array, bounded, describe, is_batch
from sepdeploy.exporters.tflite_file.ops.select import gather
from sepdeploy.exporters.tflite_file.ops.spatial.window import NHWC
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item, axis_of
from sepdeploy.exporters.tflite_file.values.contract import contract
from sepdeploy.exporters.tflite_file.values.layout import Constant, Value

# (align_corners, half_pixel_centers) of TFLite's resize operators.
_VARIANTS = ((False, False), (False, True), (True, False))
_TOLERANCE = 1e-6


def resize(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Resize any dimensions but the batch.

    ONNX has dozens of variants, TFLite three. What a variant does along one dimension is a fixed
    matrix; ONNX's is computed by its reference implementation and compared with TFLite's. Where
    none agrees, the dimension is picked by index (nearest) or multiplied by the matrix (others).
    """
    x = ctx.value(node, inputs, 0)
    sizes = _sizes(ctx, node, inputs, x)
    changed = [a for a, (old, new) in enumerate(zip(x.shape, sizes, strict=True)) if old != new]
    if not changed:
        return [x]
    if any(is_batch(x.shape[a]) for a in changed):
        raise BadInput(f"{node} resizes the batch", hint=TFLITE_FORM)
    scales = _scales(ctx, node, inputs, x, sizes)
    nearest = ctx.text(node, "mode", "nearest") == "nearest"
    matrices = {}
    for a in changed:
        bounded(x.shape[a] * max(x.shape[a], sizes[a]), node)
        if nearest:
            matrices[a] = _picked(ctx, node, x.shape[a], sizes[a], scales[a])
        else:
            matrices[a] = _matrix(node, x.shape[a], sizes[a], scales[a])
    variant = _matching(x, sizes, matrices, nearest)
    if variant is not None:
        return [_by_operator(ctx, x, sizes, variant, nearest)]
    for axis, matrix in matrices.items():
        if nearest:
            indices = Constant(np.argmax(matrix, axis=1).astype(np.int64), (sizes[axis],))
            step = Node("Gather", "", node.name, [], [], {"axis": axis})
            (picked,) = gather(ctx, step, [x, indices])
            assert isinstance(picked, Value)
            x = picked
        else:
            x = contract(ctx.b, x, axis, matrix, None, "interpolation")
    return [x]


def _sizes(ctx: Context, node: Node, inputs: Inputs, x: Value) -> tuple[int, ...]:
    _refuse_unusual(ctx, node)
    axes = [axis_of(node, a, len(x.shape)) for a in ctx.ints(node, "axes", range(len(x.shape)))]
    sizes = list(x.shape)
    target = ctx.optional_array(node, inputs, 3)
    scales = ctx.optional_array(node, inputs, 2)
    if target is not None and target.size:
        for axis, size in zip(axes, target.reshape(-1), strict=True):
            sizes[axis] = int(size)
    elif scales is not None and scales.size:
        for axis, scale in zip(axes, scales.reshape(-1), strict=True):
            if scale != 1:
                sizes[axis] = math.floor(sizes[axis] * float(scale))
    else:
        raise BadInput(f"{node} has neither sizes nor scales", hint=GRAPH)
    if min(sizes) < 1:
        raise BadInput(f"{node}: nothing is left of {describe(x.shape)}", hint=GRAPH)
    return tuple(sizes)


def _refuse_unusual(ctx: Context, node: Node) -> None:
    policy = ctx.text(node, "keep_aspect_ratio_policy", "stretch")
    coordinates = ctx.text(node, "coordinate_transformation_mode", "half_pixel")
    if policy != "stretch" or coordinates == "tf_crop_and_resize":
        raise BadInput(
            f"{node}: resizing by {policy}, {coordinates} has no TFLite form",
            hint="resize to a fixed size with half_pixel, asymmetric or align_corners",
        )


def _scales(
    ctx: Context, node: Node, inputs: Inputs, x: Value, sizes: Sequence[int]
) -> list[float]:
    """Return the factor per dimension, which may differ from new / old size by rounding."""
    given = ctx.optional_array(node, inputs, 2)
    result = [new / old for old, new in zip(x.shape, sizes, strict=True)]
    if given is not None and given.size:
        axes = ctx.ints(node, "axes", range(len(x.shape)))
        for axis, scale in zip(axes, given.reshape(-1), strict=True):
            result[axis_of(node, axis, len(x.shape))] = float(scale)
    return result


def _picked(ctx: Context, node: Node, old: int, new: int, scale: float) -> Array:
    """Return which element each place takes, as a matrix of ones and zeros.

    Positions are worked out in float32, as ONNX Runtime does: where one falls on the middle
    between two elements, or on an element, rounding decides.
    """
    mode = ctx.text(node, "coordinate_transformation_mode", "half_pixel")
    rounding = ctx.text(node, "nearest_mode", "round_prefer_floor")
    place = np.arange(new, dtype=np.float32)
    factor, half = np.float32(scale), np.float32(0.5)
    if mode == "asymmetric":
        position = place / factor
    elif mode == "align_corners":
        position = place * np.float32(old - 1) / np.float32(max(new - 1, 1))
    elif mode == "half_pixel" or (mode == "pytorch_half_pixel" and new > 1):
        position = (place + half) / factor - half
    elif mode == "pytorch_half_pixel":
        position = np.zeros_like(place)
    else:
        return _matrix(node, old, new, scale)
    rounded = {
        "round_prefer_floor": np.ceil(position - half),
        "round_prefer_ceil": np.floor(position + half),
        "floor": np.floor(position),
        "ceil": np.ceil(position),
    }
    if rounding not in rounded:
        raise BadInput(f"{node}: nearest_mode '{rounding}' is not known", hint=TFLITE_FORM)
    units = np.eye(old, dtype=np.float32)
    return np.asarray(units[np.clip(rounded[rounding].astype(int), 0, old - 1)])


def _matrix(node: Node, old: int, new: int, scale: float) -> Array:
    """Return ONNX's resize of one dimension as a matrix (new, old): the resize of each unit."""
    attributes = {
        k: v for k, v in node.attributes.items() if k not in ("axes", "keep_aspect_ratio_policy")
    }
    units = np.eye(old, dtype=np.float32)
    given: dict[str, Array] = {"x": units}
    # Sizes and scales may disagree by rounding; each is passed on as the node has it.
    if math.floor(old * scale) == new and scale != new / old:
        given["scales"] = np.array([1.0, scale], np.float32)
    else:
        given["sizes"] = np.array([old, new], np.int64)
    names = ["x", "", "scales" if "scales" in given else "", "sizes" if "sizes" in given else ""]
    proto = onnx.helper.make_node("Resize", names, ["y"], **attributes)
    infos = [
        onnx.helper.make_tensor_value_info(
            k, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape
        )
        for k, v in given.items()
    ]
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([proto], "resize", infos, [out])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    try:
        (rows,) = ReferenceEvaluator(model).run(None, given)
    except Exception as error:
        # Whatever the evaluator raises, the combination of attributes is not usable.
        raise BadInput(f"{node} cannot be resized: {error}", hint=GRAPH) from error
    return np.ascontiguousarray(np.asarray(rows, np.float32).T)


def _matching(
    x: Value, sizes: Sequence[int], matrices: dict[int, Array], nearest: bool
) -> tuple[bool, bool] | None:
    if len(x.shape) != 4 or any(a < 2 for a in matrices):
        return None
    form = _nearest_matrix if nearest else _linear_matrix
    for variant in _VARIANTS:
        wanted = [form(x.shape[a], sizes[a], *variant) if a in matrices else None for a in (2, 3)]
        alike = (
            w is None or np.allclose(w, matrices[a], rtol=0, atol=_TOLERANCE)
            for a, w in zip((2, 3), wanted, strict=True)
        )
        # A dimension that keeps its size is the identity in every variant.
        if all(alike):
            return variant
    return None


def _nearest_matrix(old: int, new: int, align: bool, half: bool) -> Array:
    scale = (old - 1) / (new - 1) if align and new > 1 else old / new
    position = (np.arange(new) + (0.5 if half else 0.0)) * np.float32(scale)
    index = np.floor(position + 0.5) if align else np.floor(position)
    units: Array = np.eye(old, dtype=np.float32)
    return np.asarray(units[np.clip(index.astype(int), 0, old - 1)])


def _linear_matrix(old: int, new: int, align: bool, half: bool) -> Array:
    scale = (old - 1) / (new - 1) if align and new > 1 else old / new
    position = np.arange(new) * scale if not half else (np.arange(new) + 0.5) * scale - 0.5
    low = np.maximum(np.floor(position), 0).astype(int)
    high = np.minimum(np.ceil(position), old - 1).astype(int)
    share = position - np.floor(position)
    units = np.eye(old)
    rows = units[np.minimum(low, old - 1)] * (1 - share)[:, None] + units[high] * share[:, None]
    clamped = np.where((position < 0)[:, None], units[0], rows)
    return clamped.astype(np.float32)


def _by_operator(
    ctx: Context, x: Value, sizes: tuple[int, ...], variant: tuple[bool, bool], nearest: bool
) -> Value:
    tensor = ctx.b.arranged(x, NHWC)
    kind = "RESIZE_NEAREST_NEIGHBOR" if nearest else "RESIZE_BILINEAR"
    n, channels, height, width = sizes
    out = ctx.b.op(
        kind,
        [tensor, ctx.b.ints([height, width], "size")],
        (n, height, width, channels),
        align_corners=variant[0],
        half_pixel_centers=variant[1],
    )
    return layout.permuted(out, sizes, NHWC)


def depth_to_space(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Spread blocks of channels over space; one operator in "DCR" mode, a transpose in "CRD"."""
    x, block = ctx.value(node, inputs, 0), ctx.integer(node, "blocksize")
    if len(x.shape) != 4 or block < 1 or x.shape[1] % (block * block):
        raise BadInput(f"{node}: blocks of {block} do not fit {describe(x.shape)}", hint=GRAPH)
    n, channels, height, width = x.shape
    depth = channels // (block * block)
    logical = (n, depth, height * block, width * block)
    if ctx.text(node, "mode", "DCR") == "DCR":
        tensor = ctx.b.arranged(x, NHWC)
        shape = (n, height * block, width * block, depth)
        out = ctx.b.op("DEPTH_TO_SPACE", [tensor], shape, block_size=block)
        return [layout.permuted(out, logical, NHWC)]
    split = ctx.b.reshaped(x, (n, depth, block, block, height, width))
    return [ctx.b.reshaped(layout.transpose(split, (0, 1, 4, 2, 5, 3)), logical)]


def space_to_depth(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Gather blocks of space into channels."""
    x, block = ctx.value(node, inputs, 0), ctx.integer(node, "blocksize")
    if len(x.shape) != 4 or block < 1 or x.shape[2] % block or x.shape[3] % block:
        raise BadInput(f"{node}: blocks of {block} do not fit {describe(x.shape)}", hint=GRAPH)
    n, channels, height, width = x.shape
    logical = (n, channels * block * block, height // block, width // block)
    if ctx.text(node, "mode", "DCR") == "CRD":
        apart = ctx.b.reshaped(x, (n, channels, height // block, block, width // block, block))
        return [ctx.b.reshaped(layout.transpose(apart, (0, 1, 3, 5, 2, 4)), logical)]
    tensor = ctx.b.arranged(x, NHWC)
    shape = (n, height // block, width // block, logical[1])
    out = ctx.b.op("SPACE_TO_DEPTH", [tensor], shape, block_size=block)
    return [layout.permuted(out, logical, NHWC)]
