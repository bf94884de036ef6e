"""The weights of TFLite layers as int8 or float16, for every mode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sepdeploy.exporters.onnx_graph.graph import Array
from sepdeploy.exporters.quantize.scales import Int8Weight, half, quantize_bias, quantize_weight
from sepdeploy.exporters.quantize.scheme import Ledger, Scheme
from sepdeploy.exporters.tflite_file.format.graph import Op, Quantization, Tensor

CHANNEL_AXIS = {"FULLY_CONNECTED": 0, "CONV_2D": 0, "DEPTHWISE_CONV_2D": 3}
GROUPED = "a grouped convolution has no int8 kernel in every runtime"


@dataclass(frozen=True)
class Layers:
    """Turns the weights of a graph's layers into lower precision.

    Attributes:
        scheme: What to do.
        ledger: Where it is noted.
        runtime: Runtime that the file is for.
    """

    scheme: Scheme
    ledger: Ledger
    runtime: str

    def wanted(self, op: Op) -> bool:
        """Whether an operator is a layer to quantise; the ledger learns it either way."""
        if op.kind not in CHANNEL_AXIS or op.inputs[1].data is None or len(op.inputs) < 3:
            return False
        weight = op.inputs[1]
        layer = self.scheme.layer(weight.name)
        reason = self.scheme.keep_float.get(layer, "")
        grouped = op.kind == "CONV_2D" and weight.shape[3] != op.inputs[0].shape[3]
        if grouped and self.scheme.mode != "fp16":
            reason = reason or GROUPED
        # A float16 weight is kept beside its float32 copy, which the file unpacks.
        width = 4 if reason else 6 if self.scheme.mode == "fp16" else 1
        self.ledger.add(layer, _data(weight).size, width, reason)
        return not reason

    def int8(self, op: Op, input_scale: float | None = None) -> None:
        """Give a layer an int8 weight, and with an input scale an int32 bias."""
        weight, bias = op.inputs[1], op.inputs[2]
        axis = self._axis(op)
        if input_scale is None:
            made = quantize_weight(_data(weight), axis)
        else:
            made = quantize_weight(_data(weight), axis, bias=_data(bias), input_scale=input_scale)
            stored, scale = quantize_bias(_data(bias), input_scale, made.scale)
            how = _quantization(scale, 0)
            op.inputs[2] = Tensor(bias.name, bias.shape, stored.dtype, stored, how)
        op.inputs[1] = _int8_tensor(weight, made)

    def _axis(self, op: Op) -> int | None:
        """Per channel wherever the runtime computes it right."""
        axis = CHANNEL_AXIS[op.kind]
        if op.kind != "FULLY_CONNECTED":
            return axis
        layer = self.scheme.layer(op.inputs[1].name)
        dense = self.scheme.structures.get(layer, "dense") == "dense"
        return axis if dense and self.runtime == "litert" else None


def half_weight(op: Op) -> Op:
    """Store a layer's weight as float16; return the operator that unpacks it."""
    weight = op.inputs[1]
    packed = half(_data(weight), weight.name)
    stored = Tensor(f"{weight.name}/fp16", weight.shape, packed.dtype, packed)
    unpacked = Tensor(weight.name, weight.shape, np.dtype(np.float32))
    op.inputs[1] = unpacked
    return Op("DEQUANTIZE", [stored], [unpacked])


def _data(tensor: Tensor) -> Array:
    assert tensor.data is not None, "layers have constant weights"
    return tensor.data


def _int8_tensor(weight: Tensor, made: Int8Weight) -> Tensor:
    how = _quantization(made.scale, made.axis or 0)
    return Tensor(weight.name, weight.shape, made.values.dtype, made.values, how)


def _quantization(scale: Array, axis: int) -> Quantization:
    scales = tuple(float(s) for s in scale.reshape(-1))
    return Quantization(scales, (0,) * len(scales), axis)
