"""TFLite files: our own writer and a reader, without any generated schema code."""

from __future__ import annotations

from sepdeploy.exporters.tflite_file.format.reader import (
    OpInfo,
    TensorInfo,
    TfliteFile,
    read_metadata,
    read_tflite,
)

__all__ = [
    "OpInfo",
    "TensorInfo",
    "TfliteFile",
    "read_metadata",
    "read_tflite",
]
