"""Which element types the kernels of the runtimes compute with, by operator (all probed).

Integers of 8 and 16 bits without a scale are taken for quantised ones by many kernels, which then
give other numbers or end the process; they are computed in 32 bits instead, which CAST takes back
to the narrow type by dropping bits, as ONNX does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sepdeploy.errors import TFLITE_FORM, BadInput

# Move values, whatever they are.
_MOVING = "RESHAPE TRANSPOSE GATHER GATHER_ND SCATTER_ND STRIDED_SLICE CONCATENATION SELECT_V2 TILE"
_MOVING += " PAD PADV2 MIRROR_PAD CAST REVERSE_V2 DEQUANTIZE QUANTIZE CUSTOM"
_WIDE = ("float32", "int32", "int64")
_EVERY = ("float32", "int8", "uint8", "int16", "int32", "int64")
_KINDS: dict[str, tuple[str, ...]] = {
    _MOVING: (*_EVERY, "bool", "float16"),
    "MAXIMUM MINIMUM REDUCE_MAX REDUCE_MIN REDUCE_PROD SPLIT SPLIT_V TOPK_V2": _EVERY,
    "ADD SUB MUL NEG SUM MEAN LESS LESS_EQUAL GREATER GREATER_EQUAL FLOOR_MOD CUMSUM": _WIDE,
    "EQUAL NOT_EQUAL": (*_WIDE, "bool"),
    "DIV POW ABS SIGN SQUARED_DIFFERENCE": ("float32", "int32"),
    "ARG_MAX ARG_MIN": ("float32", "int8", "uint8", "int32", "bool"),
    "LOGICAL_AND LOGICAL_OR LOGICAL_NOT": ("bool",),
}
COMPUTED = {kind: types for kinds, types in _KINDS.items() for kind in kinds.split()}
_NARROW = ("int8", "uint8", "int16", "bool")


def computes(kind: str, dtype: np.dtype[Any]) -> bool:
    """Whether an operator computes with a type itself."""
    return dtype.name in COMPUTED.get(kind, ("float32", "float16"))


def computed_in(kind: str, dtype: np.dtype[Any], scope: str) -> np.dtype[Any]:
    """Return the type in which an operator computes on values of a type.

    Raises:
        BadInput: There is none that gives the same.
    """
    if computes(kind, dtype):
        return dtype
    if dtype.name in _NARROW and computes(kind, np.dtype(np.int32)):
        return np.dtype(np.int32)
    raise BadInput(f"{scope}: {kind} of {dtype.name} has no TFLite form", hint=TFLITE_FORM)
