"""Write a canonical ONNX model as a .tflite file."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import onnx

from sepdeploy.errors import unknown_name
from sepdeploy.exporters.formats import FLAVOURS
from sepdeploy.exporters.onnx_graph.merging import merged_for_tflite
from sepdeploy.exporters.tflite_file.convert import convert
from sepdeploy.exporters.tflite_file.format.serialize import write_file
from sepdeploy.exporters.tflite_file.format.versions import check_runtime
from sepdeploy.records import LoweringChoice

METADATA_NAME = "sepdeploy"


def write_tflite(
    canonical: onnx.ModelProto,
    path: str | PathLike[str],
    *,
    entry: str | None = None,
    runtime: str = "litert",
    flavour: str = "standard",
    choices: Sequence[LoweringChoice] = (),
    merge: bool = False,
) -> None:
    """Write a model as a .tflite file with a dynamic batch.

    The file's input is (N, H, W, C) where the model takes images, its outputs are in the model's
    own order. The bytes depend on the arguments alone; the file appears complete or not at all.

    Args:
        canonical: ONNX model, weights included; its first input dimension may be symbolic.
        path: The file to write.
        entry: The embedded description, stored as metadata ``sepdeploy``; None stores none.
        runtime: ``litert`` or ``tflite-runtime-2.14``, the runtime whose operator versions bound
            the file's.
        flavour: ``standard``, or ``custom``: structured layers as CUSTOM operators, which only a
            runtime with kernels for them can run.
        choices: The planner's form per structured layer; the default form where absent.
        merge: Multiply small adjacent Kronecker factors together first where the planner
            reckons with it; False keeps every mode as it stands.

    Raises:
        BadInput: The model has something that TFLite or the runtime has no form for, naming the
            node, or the file cannot be written.
    """
    check_runtime(runtime)
    if flavour not in FLAVOURS:
        raise unknown_name("flavour", flavour, FLAVOURS)
    forms = {c.layer: c.form for c in choices}
    model = merged_for_tflite(canonical) if merge else canonical
    graph = convert(model, choices=forms, custom=flavour == "custom")
    metadata = {} if entry is None else {METADATA_NAME: entry.encode()}
    write_file(graph, Path(path), metadata=metadata, runtime=runtime)
