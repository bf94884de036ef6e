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


_ACTIVATION = Field(0, "activation", "NONE")


def _fused(code: int, options: int) -> OpSchema:
    return OpSchema(code, options, (("activation", _ACTIVATION),))


def _reducer(code: int) -> OpSchema:
    return OpSchema(code, 27, (("keep_dims", Field(0, "bool", False)),))


def _pool(code: int) -> OpSchema:
    fields = (
        ("padding", Field(0, "padding", "SAME")),
        ("stride_w", Field(1, "i32")),
        ("stride_h", Field(2, "i32")),
        ("filter_w", Field(3, "i32")),
        ("filter_h", Field(4, "i32")),
        ("activation", Field(5, "activation", "NONE")),
    )
    return OpSchema(code, 5, fields)


OPS: dict[str, OpSchema] = {
    "ADD": _fused(0, 11),
    "AVERAGE_POOL_2D": _pool(1),
    "CONCATENATION": OpSchema(
        2, 10, (("axis", Field(0, "i32")), ("activation", Field(1, "activation", "NONE")))
    ),
    "CONV_2D": OpSchema(
        3,
        1,
        (
            ("padding", Field(0, "padding", "SAME")),
            ("stride_w", Field(1, "i32")),
            ("stride_h", Field(2, "i32")),
            ("activation", Field(3, "activation", "NONE")),
            ("dilation_w", Field(4, "i32", 1)),
            ("dilation_h", Field(5, "i32", 1)),
        ),
    ),
    "DEPTHWISE_CONV_2D": OpSchema(
        4,
        2,
        (
            ("padding", Field(0, "padding", "SAME")),
            ("stride_w", Field(1, "i32")),
            ("stride_h", Field(2, "i32")),
            ("depth_multiplier", Field(3, "i32")),
            ("activation", Field(4, "activation", "NONE")),
            ("dilation_w", Field(5, "i32", 1)),
            ("dilation_h", Field(6, "i32", 1)),
        ),
    ),
    "DEQUANTIZE": OpSchema(6, 38),
    "DEPTH_TO_SPACE": OpSchema(5, 94, (("block_size", Field(0, "i32")),)),
    "FLOOR": OpSchema(8),
    "FULLY_CONNECTED": OpSchema(
        9, 8, (("activation", _ACTIVATION), ("keep_num_dims", Field(2, "bool", False)))
    ),
    "LOGISTIC": OpSchema(14),
    "MAX_POOL_2D": _pool(17),
    "MUL": _fused(18, 21),
    "RELU": OpSchema(19),
    "RELU6": OpSchema(21),
    "RESHAPE": OpSchema(22, 17, (("new_shape", Field(0, "ints", ())),)),
    "RESIZE_BILINEAR": OpSchema(
        23,
        15,
        (
            ("align_corners", Field(2, "bool", False)),
            ("half_pixel_centers", Field(3, "bool", False)),
        ),
    ),
    "SOFTMAX": OpSchema(25, 9, (("beta", Field(0, "f32", 0.0)),)),
    "SPACE_TO_DEPTH": OpSchema(26, 19, (("block_size", Field(0, "i32")),)),
    "TANH": OpSchema(28),
    "CUSTOM": OpSchema(CUSTOM_CODE),
    "PAD": OpSchema(34, 22),
    "GATHER": OpSchema(36, 23, (("axis", Field(0, "i32")), ("batch_dims", Field(1, "i32")))),
    "TRANSPOSE": OpSchema(39, 26),
    "MEAN": _reducer(40),
    "SUB": _fused(41, 28),
    "DIV": _fused(42, 29),
    "STRIDED_SLICE": OpSchema(
        45,
        32,
        (("begin_mask", Field(0, "i32")), ("end_mask", Field(1, "i32"))),
    ),
    "EXP": OpSchema(47, 33),
    "TOPK_V2": OpSchema(48, 34),
    "SPLIT": OpSchema(49, 35, (("num_splits", Field(0, "i32")),)),
    "LOG_SOFTMAX": OpSchema(50, 36),
    "CAST": OpSchema(
        53,
        37,
        (("in_dtype", Field(0, "dtype", "float32")), ("out_dtype", Field(1, "dtype", "float32"))),
    ),
    "PRELU": OpSchema(54),
    "MAXIMUM": OpSchema(55, 39),
    "ARG_MAX": OpSchema(56, 40, (("output_type", Field(0, "dtype", "float32")),)),
    "MINIMUM": OpSchema(57, 39),
    "LESS": OpSchema(58, 41),
    "NEG": OpSchema(59, 42),
    "PADV2": OpSchema(60, 43),
    "GREATER": OpSchema(61, 44),
    "GREATER_EQUAL": OpSchema(62, 45),
    "LESS_EQUAL": OpSchema(63, 46),
    "SIN": OpSchema(66),
    "EQUAL": OpSchema(71, 53),
    "NOT_EQUAL": OpSchema(72, 54),
    "LOG": OpSchema(73),
    "SUM": _reducer(74),
    "SQRT": OpSchema(75),
    "RSQRT": OpSchema(76),
    "POW": OpSchema(78, 56),
    "ARG_MIN": OpSchema(79, 57, (("output_type", Field(0, "dtype", "float32")),)),
    "REDUCE_PROD": _reducer(81),
    "REDUCE_MAX": _reducer(82),
    "LOGICAL_OR": OpSchema(84, 60),
    "LOGICAL_AND": OpSchema(86, 62),
    "LOGICAL_NOT": OpSchema(87, 63),
    "REDUCE_MIN": _reducer(89),
    "RESIZE_NEAREST_NEIGHBOR": OpSchema(
        97,
        74,
        (
            ("align_corners", Field(0, "bool", False)),
            ("half_pixel_centers", Field(1, "bool", False)),
        ),
    ),
    "LEAKY_RELU": OpSchema(98, 75, (("alpha", Field(0, "f32", 0.0)),)),
    "SQUARED_DIFFERENCE": OpSchema(99, 76),
    "MIRROR_PAD": OpSchema(100, 77, (("mode", Field(0, "i8", 0)),)),
    "ABS": OpSchema(101, 78),
    "SPLIT_V": OpSchema(102, 79, (("num_splits", Field(0, "i32")),)),
    "CEIL": OpSchema(104),
    "COS": OpSchema(108, 84),
    "ELU": OpSchema(111),
    "ROUND": OpSchema(116),
    "QUANTIZE": OpSchema(114, 89),
    "HARD_SWISH": OpSchema(117, 91),
    "SELECT_V2": OpSchema(123, 98),
    "BATCH_MATMUL": OpSchema(
        126, 101, (("adj_x", Field(0, "bool", False)), ("adj_y", Field(1, "bool", False)))
    ),
    "GELU": OpSchema(150, 116, (("approximate", Field(0, "bool", False)),)),
    "SIGN": OpSchema(158, 124),
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
