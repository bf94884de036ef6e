"""Operator versions: the lowest that covers what an operator uses, checked against the runtime.

A version says "needs at least a runtime that knows this"; writing a higher one than needed locks
out older runtimes, a lower one makes them fail later or compute something else. The rules for
float32 follow TensorFlow's ``op_version.cc``; the highest versions were probed on the runtimes.
"""

from __future__ import annotations

from sepdeploy.errors import BadInput, unknown_name
from sepdeploy.exporters.formats import TFLITE_RUNTIMES
from sepdeploy.exporters.tflite_file.format.graph import Op

# Highest version that tflite-runtime 2.14.0 accepts, where a rule below can exceed 1.
_MAX_2_14: dict[str, int] = {
    kind: version
    for version, kinds in (
        (2, "DIV QUANTIZE MAX_POOL_2D AVERAGE_POOL_2D"),
        (3, "TILE"),
        (4, "PAD PADV2 MAXIMUM MINIMUM RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SPLIT"),
        (5, "ADD SUB ABS CAST DEQUANTIZE"),
        (6, "TRANSPOSE GATHER"),
        (7, "CONV_2D DEPTHWISE_CONV_2D MUL"),
        (8, "STRIDED_SLICE"),
        (10, "FULLY_CONNECTED"),
    )
    for kind in kinds.split()
}

# Versions from which on an operator takes int8 activations; DEQUANTIZE: int8, then float16.
_INT8: dict[str, int] = {
    "FULLY_CONNECTED": 4,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "DEQUANTIZE": 2,
    **dict.fromkeys(("TRANSPOSE", "MAX_POOL_2D", "AVERAGE_POOL_2D"), 2),
    **dict.fromkeys(("ADD", "PAD", "STRIDED_SLICE"), 2),
}
# Versions from which on it takes float activations and int8 weights: per tensor, per channel.
_HYBRID: dict[str, tuple[int, int]] = {
    "FULLY_CONNECTED": (3, 12),
    "CONV_2D": (2, 5),
    "DEPTHWISE_CONV_2D": (4, 6),
}
PER_CHANNEL_LAYER = 12  # of FULLY_CONNECTED: runtimes that do not know it compute something else


def check_runtime(runtime: str) -> None:
    """Raise `BadInput` for a runtime that is not known."""
    if runtime not in TFLITE_RUNTIMES:
        raise unknown_name("TFLite target", runtime, TFLITE_RUNTIMES)


def op_version(op: Op, runtime: str) -> int:
    """Return the version to write for an operator.

    Raises:
        BadInput: The runtime does not know that version.
    """
    version = max(_needed(op), _quantized(op))
    if runtime == "tflite-runtime-2.14" and version > _MAX_2_14.get(op.kind, 1):
        raise BadInput(
            f"{op.kind} '{op.outputs[0].name}' needs version {version}, which {runtime} lacks",
            hint="export with --tflite-target litert",
        )
    return version


def _quantized(op: Op) -> int:
    """Return the version that an operator's integer operands need, 1 where it has none."""
    first = op.inputs[0]
    if first.dtype == "float16":
        return 3
    weight = op.inputs[1] if op.kind in _HYBRID else None
    per_channel = weight is not None and weight.quantization and weight.quantization.per_channel
    if first.dtype == "int8":
        fixed = PER_CHANNEL_LAYER if op.kind == "FULLY_CONNECTED" and per_channel else 1
        return max(fixed, _INT8.get(op.kind, 1))
    if weight is not None and weight.dtype == "int8":
        return _HYBRID[op.kind][bool(per_channel)]
    return 1


def _needed(op: Op) -> int:
    first = op.inputs[0]
    rank = max(len(t.shape) for t in op.inputs)
    match op.kind:
        case "FULLY_CONNECTED":
            return 5 if op.options.get("keep_num_dims") else 1
        case "CONV_2D":
            return 6 if op.inputs[1].shape[3] != first.shape[3] else 1
        case "DEPTHWISE_CONV_2D":
            dilated = op.options.get("dilation_w", 1) != 1 or op.options.get("dilation_h", 1) != 1
            return 2 if dilated else 1
        case "TRANSPOSE":
            return 6 if rank > 5 else 4 if rank > 4 else 3 if first.dtype == bool else 1
        case "PAD" | "PADV2" | "STRIDED_SLICE":
            return 4 if rank > 4 else 1
        case "SUB" | "DIV" | "MAXIMUM" | "MINIMUM":
            return _broadcast_version(op, rank)
        case "RESIZE_BILINEAR":
            return 3 if op.options.get("half_pixel_centers") else 1
        case "RESIZE_NEAREST_NEIGHBOR":
            centred = op.options.get("half_pixel_centers") or op.options.get("align_corners")
            return 3 if centred else 1
        case _:
            return _by_type(op)


def _broadcast_version(op: Op, rank: int) -> int:
    if op.inputs[0].shape != op.inputs[1].shape and rank > 4:
        return 2 if op.kind == "DIV" else 3
    return 4 if op.kind == "SUB" and op.inputs[0].dtype == "int64" else 1


def _by_type(op: Op) -> int:
    kind, dtype = op.kind, op.inputs[0].dtype
    if kind == "GATHER" and op.options.get("batch_dims"):
        return 5
    if kind == "SPLIT" and op.inputs[1].dtype == "int32":
        return 3
    if dtype == "int64" and kind in {"ADD", "MUL"}:
        return 4 if kind == "ADD" else 5
    if dtype == "int32" and kind == "ABS":
        return 5
    return 1
