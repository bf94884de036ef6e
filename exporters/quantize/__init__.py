"""Quantised files: int8 by run-time or calibrated scales, or float16 weights.

A finished float graph goes in, with the ranges of its activations where those are needed; the
measuring of ranges and of what pays belongs to ``sepdeploy.measure``.
"""

from sepdeploy.exporters.quantize.onnx_file import onnx_activations, quantize_onnx
from sepdeploy.exporters.quantize.scheme import Scheme, quantized_layers

MODES = ("none", "dynamic", "static", "auto", "fp16")

__all__ = [
    "MODES",
    "Scheme",
    "onnx_activations",
    "quantize_onnx",
    "quantized_layers",
]
