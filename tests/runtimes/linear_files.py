"""Files of one linear layer in every format, and which runtimes are there to run them."""

import onnx
import pytest
import tflite_builder
from onnx_builder import linear_model

from sepdeploy import runtimes

TFLITE_RUNTIMES = runtimes.installed("tflite")
needs_tflite = pytest.mark.skipif(not TFLITE_RUNTIMES, reason="no TFLite runtime installed")
FORMATS = [("onnxruntime", "onnx"), *((name, "tflite") for name in TFLITE_RUNTIMES)]


def write_linear(folder, form, weights, **options):
    path = folder / f"model.{form}"
    if form == "onnx":
        onnx.save(linear_model(*weights, **options), str(path))
        return path
    return tflite_builder.linear(path, *weights, **options)


def with_entry(folder, form, weights, text):
    options = {"metadata": {"sepdeploy": text}} if form == "onnx" else {"entry": text}
    return write_linear(folder, form, weights, **options)
