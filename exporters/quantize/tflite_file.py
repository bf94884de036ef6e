"""A float TFLite graph → a quantised .tflite file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from onnx import ModelProto

from sepdeploy.errors import unknown_name
from sepdeploy.exporters.formats import Order
from sepdeploy.exporters.quantize.scales import Affine
from sepdeploy.exporters.quantize.scheme import Ledger, Scheme, check_any
from sepdeploy.exporters.quantize.tflite_layers import Layers, half_weight
from sepdeploy.exporters.quantize.tflite_static import StaticPass
from sepdeploy.exporters.tflite_file.convert import convert
from sepdeploy.exporters.tflite_file.format.graph import Graph
from sepdeploy.exporters.tflite_file.format.serialize import write_file
from sepdeploy.exporters.tflite_file.format.versions import check_runtime
from sepdeploy.exporters.tflite_file.write import METADATA_NAME
from sepdeploy.records import LayerPrecision, LoweringChoice

UNKNOWN = Affine(1.0, 0)


def tflite_graph(canonical: ModelProto, choices: Sequence[LoweringChoice]) -> Graph:
    """Return the float TFLite graph of a canonical one, as the float writer would write it.

    Raises:
        BadInput: It has something that TFLite has no form for.
    """
    return convert(canonical, choices={c.layer: c.form for c in choices})


def tflite_activations(graph: Graph, scheme: Scheme, runtime: str) -> tuple[str, ...]:
    """Return the activations that have to be calibrated; none but for "static"."""
    if scheme.mode != "static":
        return ()
    names: dict[str, None] = {}

    def storage(name: str) -> Affine:
        names[name] = None
        return UNKNOWN

    layers = Layers(scheme, Ledger(scheme), runtime)
    StaticPass(layers, storage, dry=True).rewrite(_copy(graph))
    return tuple(names)


def quantize_tflite(
    graph: Graph, scheme: Scheme, *, runtime: str = "litert"
) -> tuple[Graph, tuple[LayerPrecision, ...]]:
    """Quantise a graph.

    Weights get one scale per output channel in convolutions, and in dense layers for LiteRT;
    structured layers, and everything but convolutions for tflite-runtime 2.14, get one scale per
    tensor.

    Args:
        graph: The float graph; it is not changed.
        scheme: What to do.
        runtime: ``litert`` or ``tflite-runtime-2.14``.

    Returns:
        The quantised graph, and the precision of every layer.

    Raises:
        BadInput: Unknown mode or runtime, nothing to quantise, a missing range, or numbers that
            are not finite.
    """
    check_runtime(runtime)
    made, ledger = _copy(graph), Ledger(scheme)
    layers = Layers(scheme, ledger, runtime)
    if scheme.mode == "static":
        StaticPass(layers, scheme.storage).rewrite(made)
    elif scheme.mode == "dynamic":
        for op in made.ops:
            if layers.wanted(op):
                layers.int8(op)
    elif scheme.mode == "fp16":
        unpacked = [half_weight(op) for op in made.ops if layers.wanted(op)]
        made.ops = [*unpacked, *made.ops]
    else:
        raise unknown_name("quantisation", scheme.mode, ("dynamic", "static", "fp16"))
    precisions = ledger.precisions()
    check_any(precisions, scheme.mode, "tflite")
    return made, precisions


def with_outputs(graph: Graph, names: Sequence[str]) -> Graph:
    """Return a graph that gives activations back as outputs of their own.

    Asked to keep intermediate values, tflite-runtime 2.14 still lets an ADD write over what it
    read; it never writes over an output.
    """
    declared = _copy(graph)
    made = {t.name: t for op in graph.ops for t in op.outputs}
    taken = {t.name for t in graph.outputs.values()}
    declared.outputs |= {n: made[n] for n in names if n in made and n not in taken}
    return declared


def write_tflite_graph(
    graph: Graph, path: Path, *, entry: str | None = None, runtime: str = "litert"
) -> None:
    """Write a TFLite graph as a file, atomically.

    Args:
        graph: The graph, float or quantised.
        path: The file.
        entry: The embedded description.
        runtime: The runtime whose operator versions bound the file's.

    Raises:
        BadInput: The runtime lacks an operator, some runtime would compute one silently wrong, or
            the file cannot be written.
    """
    metadata = {} if entry is None else {METADATA_NAME: entry.encode()}
    write_file(graph, path, metadata=metadata, runtime=runtime)


def _copy(graph: Graph) -> Graph:
    """Return a graph whose operators can be changed; tensors are shared and never changed."""
    ops = [
        replace(o, inputs=list(o.inputs), outputs=list(o.outputs), options=dict(o.options))
        for o in graph.ops
    ]
    return Graph(ops, dict(graph.inputs), dict(graph.outputs))


class TfliteQuantizer:
    """Makes quantised .tflite files."""

    def __init__(self, order: Order, folder: Path) -> None:
        self.float_path = folder / "float.tflite"
        self.order = order
        self.graph = tflite_graph(order.canonical, order.choices)
        write_tflite_graph(self.graph, self.float_path, entry=order.entry, runtime=order.runtime)

    def activations(self, scheme: Scheme) -> tuple[str, ...]:
        """Return what has to be calibrated."""
        return tflite_activations(self.graph, scheme, self.order.runtime)

    def calibration_file(self, names: tuple[str, ...]) -> Path:
        """Return a float file that shows these activations."""
        path = self.float_path.with_name("calibration.tflite")
        write_tflite_graph(with_outputs(self.graph, names), path, runtime=self.order.runtime)
        return path

    def write(self, scheme: Scheme, path: Path) -> tuple[LayerPrecision, ...]:
        """Write a file and return the precision of its layers."""
        graph, precisions = quantize_tflite(self.graph, scheme, runtime=self.order.runtime)
        write_tflite_graph(graph, path, entry=self.order.entry, runtime=self.order.runtime)
        return precisions
