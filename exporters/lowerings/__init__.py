"""The candidate forms of each structure, per file format."""

from __future__ import annotations

from sepdeploy.exporters.lowerings.onnx_forms import ONNX_FORMS
from sepdeploy.exporters.lowerings.tflite_forms import TFLITE_FORMS

__all__ = ["ONNX_FORMS", "TFLITE_FORMS"]
