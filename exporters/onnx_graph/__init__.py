"""Passes over ONNX graphs as plain protobufs."""
