"""Structured layers as CUSTOM operators: the op's name, its weights as operands, its attributes.

The operator's name is that of the domain's op, its operands are (x, weights in the order of the
domain's schema, bias), and its attributes stand in the operator's options as a flexbuffer map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from flatbuffers import flexbuffers

from sepdeploy.exporters.tflite_file.format.graph import Array
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.builder import Builder
from sepdeploy.exporters.tflite_file.values.layout import Value


def custom_layer(
    b: Builder,
    op: str,
    x: Value,
    weights: Mapping[str, Array],
    attributes: Mapping[str, int | Sequence[int]],
    units: int,
) -> Value:
    """Emit a layer as one CUSTOM operator on rows (M, n_in).

    Args:
        b: The graph under construction.
        op: The operator's name.
        x: Rows of features; more than one leading dimension counts as rows too.
        weights: Operands after x, by their role in the layer.
        attributes: Integers and lists of integers.
        units: Features of the result.
    """
    rows = x.shape[:-1]
    flat = b.row_major(b.reshaped(x, (math.prod(rows), x.shape[-1]))).tensor
    operands = [b.constant(np.asarray(w, np.float32), role) for role, w in weights.items()]
    out = b.custom(op, [flat, *operands], (math.prod(rows), units), _options(attributes))
    return b.reshaped(layout.plain(out), (*rows, units))


def _options(attributes: Mapping[str, int | Sequence[int]]) -> bytes:
    plain = {k: v if isinstance(v, int) else list(v) for k, v in attributes.items()}
    return bytes(flexbuffers.Dumps(plain))
