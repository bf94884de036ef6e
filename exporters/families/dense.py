"""The form that every family can have: its factors multiplied out into one matrix.

In an .onnx file only where that is estimated at least a tenth faster and costs no size worth
speaking of: at most 16 KiB, or twice the factors. In a .tflite file where it needs no more
multiplications and at most twice the weights: then it cannot be slower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sepdeploy.exporters.families.cost import dense_cost
from sepdeploy.exporters.families.emit import Emitter, Weight
from sepdeploy.exporters.families.family import Form, OnnxBuilder, TfliteBuilder
from sepdeploy.exporters.tflite_file.format.graph import Array
from sepdeploy.exporters.tflite_file.values.context import Context
from sepdeploy.exporters.tflite_file.values.contract import contract
from sepdeploy.exporters.tflite_file.values.layout import Value
from sepdeploy.structures import Spec

DENSE = "dense"
SMALL_DENSE_BYTES = 16 << 10
DENSE_GROWTH = 2
DENSE_GAIN = 1.1


def dense_onnx(structured_cost: Callable[[Any], float]) -> Form[OnnxBuilder]:
    """The dense form of a family in an .onnx file.

    Args:
        structured_cost: What a layer costs with its factors.
    """

    def refuse(spec: Spec) -> str:
        allowed = max(SMALL_DENSE_BYTES // 4, DENSE_GROWTH * spec.weight_params)
        if _weights(spec) > allowed:
            return f"{_weights(spec)} weights in place of {spec.weight_params}"
        if structured_cost(spec) < DENSE_GAIN * dense_cost(spec):
            return "not faster enough to give up the factors"
        return ""

    note = "dense is faster here, at no size worth speaking of"
    return Form(DENSE, refuse, dense_cost, _weights, _onnx, note)


def _weights(spec: Spec) -> int:
    return spec.dense_macs


def _onnx(e: Emitter, spec: Spec, x: str, factors: Sequence[Weight], bias: Weight) -> str:
    arrays = [f.array for f in factors if f.array is not None]
    if len(arrays) != len(factors):
        message = "the dense form needs the numbers of its factors"
        raise ValueError(message)
    matrix = spec.dense_matrix(arrays).astype(arrays[0].dtype)
    weight = Weight.known(f"{e.prefix.rpartition('/')[0]}.weight", matrix)
    return e.node("Gemm", x, e.use(weight), e.use(bias), transB=1)


def _refuse_tflite(spec: Spec) -> str:
    if _weights(spec) > DENSE_GROWTH * spec.weight_params:
        return f"{_weights(spec)} weights in place of {spec.weight_params}"
    if spec.dense_macs > spec.macs:
        return "more multiplications than with factors"
    return ""


def _tflite(ctx: Context, spec: Spec, x: Value, factors: Sequence[Array], bias: Array) -> Value:
    matrix = spec.dense_matrix(factors)
    return contract(ctx.b, x, len(x.shape) - 1, matrix, bias, "weight")


DENSE_TFLITE: Form[TfliteBuilder] = Form(
    DENSE, _refuse_tflite, _weights, _weights, _tflite, "factors need more multiplications"
)
