"""Passes over the ONNX side before, and the TFLite side after conversion."""
