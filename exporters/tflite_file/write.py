"""Write a canonical ONNX model as a .tflite file."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import onnx

from sepdeploy.errors import BadInput
from sepdeploy.exporters.tflite_file.convert import convert
from sepdeploy.exporters.tflite_file.serialize import write_file
from sepdeploy.exporters.tflite_file.versions import check_target
from sepdeploy.records import LoweringChoice

METADATA_NAME = "sepdeploy"


def write_tflite(
    canonical: onnx.ModelProto,
    path: str | PathLike[str],
    *,
    entry: str | None = None,
    target: str = "litert",
    flavour: str = "standard",
    choices: Sequence[LoweringChoice] = (),
) -> None:
    """Write a model as a .tflite file of built-in operators with a dynamic batch.

    The file's input is (N, H, W, C) where the model takes images, its outputs are in the model's
    own order. The bytes depend on the arguments alone; the file appears complete or not at all.

    Args:
        canonical: ONNX model, weights included; its first input dimension may be symbolic.
        path: The file to write.
        entry: The embedded description, stored as metadata ``sepdeploy``; None stores none.
        target: ``litert`` or ``tflite-runtime-2.14``, the runtime whose operator versions bound
            the file's.
        flavour: ``standard``.
        choices: The planner's form per structured layer; the default form where absent.

    Raises:
        BadInput: The model has something that TFLite or the target has no form for, naming the
            node, or the file cannot be written.
    """
    check_target(target)
    if flavour != "standard":
        raise BadInput(f"flavour '{flavour}' has no TFLite form", hint="use the flavour 'standard'")
    graph = convert(canonical, choices={c.layer: c.form for c in choices})
    metadata = {} if entry is None else {METADATA_NAME: entry.encode()}
    write_file(graph, Path(path), metadata=metadata, target=target)
