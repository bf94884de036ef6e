"""What a TFLite file says about itself."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sepdeploy.errors import BadInput
from sepdeploy.exporters.facts import (
    Affine,
    Described,
    FileFacts,
    FileLayer,
    Port,
    Shapes,
    Size,
    one_sample,
    with_sizes,
)
from sepdeploy.exporters.operations import TFLITE_COUNTED, tflite_macs
from sepdeploy.exporters.tflite_file.format.reader import (
    OpInfo,
    TensorInfo,
    TfliteFile,
    read_tflite,
)

UNNAMED = "?"
FLOATS = {"float32", "float16", "float64"}
# What stands between a stored weight and the operator that uses it.
PASSED = {"DEQUANTIZE", "DENSIFY", "CAST", "TRANSPOSE", "RESHAPE"}


def describe_tflite(path: Path, shapes: Shapes) -> Described:
    """Describe a TFLite file: its first subgraph, which is the one that is run.

    Raises:
        BadInput: It is not one, or has no input of a name in ``shapes``.
    """
    try:
        file = read_tflite(path)
    except BadInput as error:
        raise BadInput(f"{path}: {error.message}", hint=error.hint) from error
    names = dict(file.names)
    inputs = tuple(_port(file.tensors[i], names) for i in file.inputs if i >= 0)
    inputs = with_sizes(path, inputs, shapes)
    outputs = tuple(_port(file.tensors[i], names) for i in file.outputs if i >= 0)
    sizes = [n for i in file.inputs if i >= 0 for n in file.tensors[i].shape[1:]]
    known = all(n >= 0 for n in sizes)  # those inside are what the file was laid out for
    notes = []
    if file.others:
        notes.append(f"{len(file.others)} operators of further subgraphs: not counted in the MACs")
    if not known:
        notes.append("MACs: not known, sizes besides the batch are open")
    layers = tuple(_layers(file, known=known))
    held = [t for t in file.tensors if _is_weight(t)]
    work = [_macs(op, file) for op in file.ops] if known else []
    counts = Counter(op.kind for op in (*file.ops, *file.others))
    made_by = {"producer": file.description, "operators": _versions(file)}
    return Described(
        FileFacts(made_by, inputs, outputs, dict(counts.most_common()), tuple(notes)),
        layers,
        sum(math.prod(t.written) for t in held),
        sum(t.constant_bytes for t in held),
        sum(work) if known else None,
        one_sample(inputs, (2, 0, 1)),
    )


def _versions(file: TfliteFile) -> str:
    newest = max((op.version for op in file.ops), default=1)
    return f"versions up to {newest}"


def _port(tensor: TensorInfo, names: dict[int, str]) -> Port:
    sizes: tuple[Size, ...] = tuple(UNNAMED if n < 0 else n for n in tensor.shape)
    dtype = "" if tensor.dtype in ("unknown", "resource", "variant") else tensor.dtype
    return Port(names.get(tensor.index) or tensor.name, dtype, sizes, _affine(tensor))


def _affine(tensor: TensorInfo) -> Affine | None:
    if not tensor.scales or not tensor.scale > 0:
        return None
    return Affine(tensor.scale, tensor.zero_point, tensor.scales)


def _is_weight(tensor: TensorInfo) -> bool:
    """Whether a tensor holds parameters; whole numbers do where they stand for real ones."""
    stored = tensor.constant_bytes and math.prod(tensor.written) > 1
    return bool(stored) and (tensor.dtype in FLOATS or tensor.scales > 0)


def _layers(file: TfliteFile, *, known: bool) -> Iterator[FileLayer]:
    source = {o: op for op in file.ops if op.kind in PASSED for o in op.outputs}
    taken: set[int] = set()

    def stored(index: int) -> int:
        for _ in range(8):
            if index < 0 or _is_weight(file.tensors[index]) or index not in source:
                break
            index = source[index].inputs[0]
        return index if index >= 0 and _is_weight(file.tensors[index]) else -1

    for op in file.ops:
        if op.outputs and op.kind in PASSED and stored(op.outputs[0]) >= 0:
            continue
        found = dict.fromkeys(i for i in map(stored, op.inputs) if i >= 0)
        own = [file.tensors[i] for i in found]
        if not own:
            continue
        new = [t for t in own if t.index not in taken]  # a shared weight is counted once
        taken |= set(found)
        main = max(own, key=lambda t: math.prod(t.written))
        counted = op.kind in TFLITE_COUNTED
        macs = _macs(op, file) if known else None if counted else 0
        params = sum(math.prod(t.written) for t in new)
        first = file.tensors[op.outputs[0]] if op.outputs and op.outputs[0] >= 0 else None
        yield FileLayer(
            (first.name if first else "") or op.kind,
            "dense" if counted else "",
            tuple(t.written for t in own),
            params,
            params,
            macs,
            macs,
            op.kind,
            main.dtype,
            None if first is None else first.written if known else None,
            _affine(main),
        )


def _macs(op: OpInfo, file: TfliteFile) -> int:
    if op.kind not in TFLITE_COUNTED or not op.outputs or min(op.inputs[:2]) < 0:
        return 0
    shapes = [file.tensors[i].written if i >= 0 else () for i in op.inputs]
    weight = shapes[TFLITE_COUNTED[op.kind]]
    if len(weight) < (4 if op.kind.endswith(("CONV_2D", "CONV")) else 1):
        return 0
    return tflite_macs(op.kind, shapes, file.tensors[op.outputs[0]].written)
