"""Canonical graph → .onnx file."""
