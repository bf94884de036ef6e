"""Quantised files: int8 by run-time or calibrated scales, or float16 weights.

A finished float graph goes in, with the ranges of its activations where those are needed; the
measuring of ranges and of what pays belongs to ``sepdeploy.measure``.
"""

from sepdeploy.exporters.quantize.onnx_file import onnx_activations, quantize_onnx
from sepdeploy.exporters.quantize.scheme import Scheme, quantized_layers
from sepdeploy.exporters.quantize.tflite_file import (
    quantize_tflite,
    tflite_activations,
    tflite_graph,
    with_outputs,
    write_tflite_graph,
)

__all__ = [
    "Scheme",
    "onnx_activations",
    "quantize_onnx",
    "quantize_tflite",
    "quantized_layers",
    "tflite_activations",
    "tflite_graph",
    "with_outputs",
    "write_tflite_graph",
]
