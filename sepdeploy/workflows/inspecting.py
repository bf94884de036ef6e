"""What a file holds, layer by layer: from a model with torch, from an artifact without."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sepdeploy.errors import BadInput
from sepdeploy.records import INSPECT_SCHEMA, InputSpec, LayerRecord


@dataclass(frozen=True)
class Total:
    """Sums over all layers."""

    params: int
    params_dense: int
    macs: int
    macs_dense: int


@dataclass(frozen=True)
class InspectReport:
    """The layers of one file."""

    path: str
    format: str
    input: InputSpec
    layers: tuple[LayerRecord, ...]
    total: Total
    notes: tuple[str, ...] = ()
    schema: str = INSPECT_SCHEMA


def sniff(path: Path) -> str:
    """Tell "pt", "onnx" or "tflite" by content first and by suffix where content cannot tell.

    Raises:
        BadInput: Unreadable, empty or none of the three.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(8)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", hint="check the path") from error
    if head[4:8] == b"TFL3":
        return "tflite"
    if head[:4] == b"PK\x03\x04" and path.suffix != ".npz":
        return "pt"
    by_suffix = {".onnx": "onnx", ".tflite": "tflite", ".pt": "pt", ".pth": "pt"}
    if path.suffix not in by_suffix:
        raise BadInput(f"{path} is not a .pt, .onnx or .tflite file")
    if not head:
        raise BadInput(f"{path} is empty")
    return by_suffix[path.suffix]


def total_of(layers: tuple[LayerRecord, ...]) -> Total:
    """Return the sums over layers."""
    return Total(
        params=sum(layer.params for layer in layers),
        params_dense=sum(layer.params_dense for layer in layers),
        macs=sum(layer.macs for layer in layers),
        macs_dense=sum(layer.macs_dense for layer in layers),
    )


def inspect_file(path: Path, *, arch: str | None = None) -> InspectReport:
    """Describe a .pt, .onnx or .tflite file.

    Raises:
        BadInput: Unreadable or not one of ours.
        Missing: A .pt file without torch installed.
    """
    kind = sniff(path)
    notes: tuple[str, ...] = ()
    if kind == "pt":
        from sepdeploy.workflows.requirements import require_torch

        require_torch("inspect a .pt file")
        from sepdeploy.models import load

        model = load(path, arch=arch)
        spec, layers = model.input, model.layer_records()
        params = model.params
    else:
        from sepdeploy.exporters.entry import read_entry

        entry = read_entry(path)
        spec, layers = entry.input, entry.layers
        params = sum(layer.params for layer in layers)
    total = total_of(layers)
    if params > total.params:
        notes = (f"{params - total.params:,} further parameters outside these layers",)
    return InspectReport(str(path), kind, spec, layers, total, notes)
