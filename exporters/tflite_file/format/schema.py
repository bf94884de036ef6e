"""The part of the TFLite flatbuffer schema that this package writes and reads.

Numbers are those of the public ``schema.fbs`` (file identifier ``TFL3``, version 3): operator
codes, the option table of each operator with the slot of each field, and the tensor types.
Only what is listed here can be written, so an unknown option is a ``KeyError`` in development
and never a file that a runtime reads differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sepdeploy.errors import BadInput

SCHEMA_VERSION = 3
ALIGNMENT = 64
MAX_FILE_BYTES = (1 << 31) - 1
PLACEHOLDER_CODE = 127  # deprecated_builtin_code of operators above 126
CUSTOM_CODE = 32

TENSOR_TYPES: dict[str, int] = {
    "float32": 0,
    "float16": 1,
    "int32": 2,
    "uint8": 3,
    "int64": 4,
    "bool": 6,
    "int16": 7,
    "int8": 9,
}
TYPE_NAMES: dict[int, str] = {code: name for name, code in TENSOR_TYPES.items()} | {
    5: "string",
    8: "complex64",
    10: "float64",
    11: "complex128",
    12: "uint64",
    13: "resource",
    14: "variant",
    15: "uint32",
    16: "uint16",
    17: "int4",
}

ACTIVATIONS: dict[str, int] = {"NONE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}
PADDINGS: dict[str, int] = {"SAME": 0, "VALID": 1}


@dataclass(frozen=True)
class Field:
    """One field of an option table: its slot, flatbuffer type and the schema's default."""

    slot: int
    kind: str  # "i8" | "i32" | "bool" | "f32" | "ints" | "activation" | "padding" | "dtype"
    default: Any = 0


@dataclass(frozen=True)
class OpSchema:
    """One built-in operator: code, number in the options union, and option fields by name."""

    code: int
    options: int = 0
    fields: tuple[tuple[str, Field], ...] = ()


# Flatbuffer type and default of each option, "i32" and 0 where it is not named.
_TYPES: dict[str, tuple[str, Any]] = {
    "activation": ("activation", "NONE"),
    "padding": ("padding", "SAME"),
    **dict.fromkeys(("dilation_w", "dilation_h"), ("i32", 1)),
    **dict.fromkeys(("keep_dims", "keep_num_dims", "approximate"), ("bool", False)),
    **dict.fromkeys(("align_corners", "half_pixel_centers", "adj_x", "adj_y"), ("bool", False)),
    **dict.fromkeys(("exclusive", "reverse"), ("bool", False)),
    "new_shape": ("ints", ()),
    **dict.fromkeys(("beta", "alpha"), ("f32", 0.0)),
    **dict.fromkeys(("in_dtype", "out_dtype", "output_type"), ("dtype", "float32")),
    "mode": ("i8", 0),
}
_POOL = "padding stride_w stride_h filter_w filter_h activation"


def _op(code: int, options: int = 0, fields: str = "") -> OpSchema:
    """Return a row; ``fields`` are the options slot by slot, "_" for one that is never written."""
    named = [(name, i) for i, name in enumerate(fields.split()) if name != "_"]
    return OpSchema(code, options, tuple((n, Field(i, *_TYPES.get(n, ("i32",)))) for n, i in named))


OPS: dict[str, OpSchema] = {
    "ADD": _op(0, 11, "activation"),
    "AVERAGE_POOL_2D": _op(1, 5, _POOL),
    "CONCATENATION": _op(2, 10, "axis activation"),
    "CONV_2D": _op(3, 1, "padding stride_w stride_h activation dilation_w dilation_h"),
    "DEPTHWISE_CONV_2D": _op(
        4, 2, "padding stride_w stride_h depth_multiplier activation dilation_w dilation_h"
    ),
    "DEQUANTIZE": _op(6, 38),
    "DEPTH_TO_SPACE": _op(5, 94, "block_size"),
    "FLOOR": _op(8),
    "FULLY_CONNECTED": _op(9, 8, "activation _ keep_num_dims"),
    "LOGISTIC": _op(14),
    "MAX_POOL_2D": _op(17, 5, _POOL),
    "MUL": _op(18, 21, "activation"),
    "RELU": _op(19),
    "RELU6": _op(21),
    "RESHAPE": _op(22, 17, "new_shape"),
    "RESIZE_BILINEAR": _op(23, 15, "_ _ align_corners half_pixel_centers"),
    "SOFTMAX": _op(25, 9, "beta"),
    "SPACE_TO_DEPTH": _op(26, 19, "block_size"),
    "TANH": _op(28),
    "TILE": _op(69, 51),
    "FLOOR_MOD": _op(95, 72),
    "REVERSE_V2": _op(105, 81),
    "GATHER_ND": _op(107, 83),
    "CUMSUM": _op(128, 102, "exclusive reverse"),
    "ATAN2": _op(156, 122),
    "CUSTOM": _op(CUSTOM_CODE),
    "PAD": _op(34, 22),
    "GATHER": _op(36, 23, "axis batch_dims"),
    "TRANSPOSE": _op(39, 26),
    "MEAN": _op(40, 27, "keep_dims"),
    "SUB": _op(41, 28, "activation"),
    "DIV": _op(42, 29, "activation"),
    "STRIDED_SLICE": _op(45, 32, "begin_mask end_mask"),
    "EXP": _op(47, 33),
    "TOPK_V2": _op(48, 34),
    "SPLIT": _op(49, 35, "num_splits"),
    "LOG_SOFTMAX": _op(50, 36),
    "CAST": _op(53, 37, "in_dtype out_dtype"),
    "PRELU": _op(54),
    "MAXIMUM": _op(55, 39),
    "ARG_MAX": _op(56, 40, "output_type"),
    "MINIMUM": _op(57, 39),
    "LESS": _op(58, 41),
    "NEG": _op(59, 42),
    "PADV2": _op(60, 43),
    "GREATER": _op(61, 44),
    "GREATER_EQUAL": _op(62, 45),
    "LESS_EQUAL": _op(63, 46),
    "SIN": _op(66),
    "EQUAL": _op(71, 53),
    "NOT_EQUAL": _op(72, 54),
    "LOG": _op(73),
    "SUM": _op(74, 27, "keep_dims"),
    "SQRT": _op(75),
    "RSQRT": _op(76),
    "POW": _op(78, 56),
    "ARG_MIN": _op(79, 57, "output_type"),
    "REDUCE_PROD": _op(81, 27, "keep_dims"),
    "REDUCE_MAX": _op(82, 27, "keep_dims"),
    "LOGICAL_OR": _op(84, 60),
    "LOGICAL_AND": _op(86, 62),
    "LOGICAL_NOT": _op(87, 63),
    "REDUCE_MIN": _op(89, 27, "keep_dims"),
    "RESIZE_NEAREST_NEIGHBOR": _op(97, 74, "align_corners half_pixel_centers"),
    "LEAKY_RELU": _op(98, 75, "alpha"),
    "SQUARED_DIFFERENCE": _op(99, 76),
    "MIRROR_PAD": _op(100, 77, "mode"),
    "ABS": _op(101, 78),
    "SPLIT_V": _op(102, 79, "num_splits"),
    "CEIL": _op(104),
    "COS": _op(108, 84),
    "ELU": _op(111),
    "ROUND": _op(116),
    "QUANTIZE": _op(114, 89),
    "HARD_SWISH": _op(117, 91),
    "SELECT_V2": _op(123, 98),
    "BATCH_MATMUL": _op(126, 101, "adj_x adj_y"),
    "GELU": _op(150, 116, "approximate"),
    "SIGN": _op(158),
}


def tensor_type(dtype: np.dtype[Any], name: str) -> int:
    """Return the schema's number of a tensor's type.

    Raises:
        BadInput: It is one that no runtime computes with.
    """
    if dtype.name not in TENSOR_TYPES:
        raise BadInput(
            f"'{name}' is {dtype.name}, which has no TFLite form",
            hint=f"cast it to one of {', '.join(TENSOR_TYPES)}",
        )
    return TENSOR_TYPES[dtype.name]
