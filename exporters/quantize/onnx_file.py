"""A finished float .onnx file's graph → a quantised one."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto

from sepdeploy.errors import BadInput, unknown_name
from sepdeploy.exporters.domain import structured_nodes
from sepdeploy.exporters.formats import ONNX, PROTOBUF_LIMIT, Order
from sepdeploy.exporters.onnx_graph.graph import serialize
from sepdeploy.exporters.quantize.onnx_dynamic import quantize_dynamic
from sepdeploy.exporters.quantize.onnx_half import store_half
from sepdeploy.exporters.quantize.onnx_static import activations, quantize_static
from sepdeploy.exporters.quantize.scheme import Scheme, check_any
from sepdeploy.files import write_bytes
from sepdeploy.records import LayerPrecision

_WRITERS = {"dynamic": quantize_dynamic, "static": quantize_static, "fp16": store_half}


def check_onnx(model: ModelProto) -> None:
    """Refuse a graph that cannot be quantised.

    Raises:
        BadInput: It holds nodes of ai.sepdeploy: quantising around a function changes nothing
            inside it.
    """
    if any(structured_nodes(model)):
        raise BadInput(
            "the custom flavour cannot be quantised: its layers are functions of float factors",
            hint="export with --flavour standard",
        )


def onnx_activations(model: ModelProto, scheme: Scheme) -> tuple[str, ...]:
    """Return the activations that have to be calibrated; none but for "static"."""
    return activations(model, scheme) if scheme.mode == "static" else ()


def quantize_onnx(
    model: ModelProto, scheme: Scheme
) -> tuple[ModelProto, tuple[LayerPrecision, ...]]:
    """Quantise the graph of a float file.

    Args:
        model: The graph, standard operators only; it is not changed.
        scheme: What to do.

    Returns:
        The quantised graph, and the precision of every layer.

    Raises:
        BadInput: Structured nodes, unknown mode, nothing to quantise, a missing range, or numbers
            that are not finite.
    """
    if scheme.mode not in _WRITERS:
        raise unknown_name("quantisation", scheme.mode, _WRITERS)
    check_onnx(model)
    result, precisions = _WRITERS[scheme.mode](model, scheme)
    check_any(precisions, scheme.mode, "onnx")
    return result, precisions


class OnnxQuantizer:
    """Makes quantised .onnx files."""

    def __init__(self, order: Order, folder: Path) -> None:
        self.float_path = folder / "float.onnx"
        ONNX.write(order, self.float_path)
        self.model = onnx.load(str(self.float_path))

    def activations(self, scheme: Scheme) -> tuple[str, ...]:
        """Return what has to be calibrated."""
        return onnx_activations(self.model, scheme)

    def calibration_file(self, names: tuple[str, ...]) -> Path:
        """Return a float file that shows these activations."""
        return self.float_path

    def write(self, scheme: Scheme, path: Path) -> tuple[LayerPrecision, ...]:
        """Write a file and return the precision of its layers.

        Raises:
            BadInput: As ``quantize_onnx``; or it is too large for one file.
        """
        model, precisions = quantize_onnx(self.model, scheme)
        if model.ByteSize() > PROTOBUF_LIMIT:
            raise BadInput(
                f"{path.name} would hold {model.ByteSize() / 1e9:.1f} GB even at --quantize "
                f"{scheme.mode}; one ONNX file holds at most 2 GB",
                hint="compress the model first, or export it with --quantize none",
            )
        write_bytes(path, serialize(model))
        return precisions
