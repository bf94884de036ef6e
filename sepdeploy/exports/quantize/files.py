"""Quantised files: calibrate a float file in its runtime, then write it at lower precision."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sepdeploy.errors import BadInput, Missing
from sepdeploy.exports.judged_images import Notify, find_data
from sepdeploy.files import write_bytes
from sepdeploy.records import LayerPrecision, LayerRecord, LoweringChoice

if TYPE_CHECKING:
    import onnx

    from sepdeploy.data import Dataset
    from sepdeploy.exporters.quantize import Scheme

CALIBRATION_SAMPLES = 128
PROTOBUF_LIMIT = 2**31 - 1
SINGLE_RUNTIME = (
    "one scale per channel in dense layers: for LiteRT; tflite-runtime 2.14 refuses the file "
    "(--tflite-target tflite-runtime-2.14 gives one for both)"
)


@dataclass(frozen=True)
class Calibration:
    """Training images that show which values activations take.

    Attributes:
        images: float32 (N, *shape) in [0, 1].
        facts: Where they are from, for the manifest.
    """

    images: NDArray[np.float32]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Order:
    """One file to write.

    Attributes:
        canonical: The canonical graph.
        format: "onnx" or "tflite".
        mode: "dynamic", "static", "auto" or "fp16".
        layers: The layer table.
        choices: The planner's form per structured layer.
        entry: The embedded description.
        target: Runtime that a .tflite file is for.
        simplify: Let onnxsim look at the float graph.
        calibration: Images for "static"; None where there are none.
    """

    canonical: onnx.ModelProto
    format: str
    mode: str
    layers: tuple[LayerRecord, ...]
    choices: tuple[LoweringChoice, ...]
    entry: str
    target: str = "litert"
    simplify: bool = True
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Quantized:
    """What became of a file; ``runtimes`` are those that it is for, where that is not all."""

    precisions: tuple[LayerPrecision, ...] = ()
    calibration: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()


def find_calibration(
    provenance: dict[str, Any],
    *,
    data: str | None,
    data_dir: str | Path | None,
    shape: tuple[int, ...],
    samples: int,
    seed: int,
    notify: Notify,
) -> Calibration | None:
    """Return training images of the data set that was asked for or trained on, if there is one.

    Never test images: ranges fitted to them would flatter the accuracy that they measure.

    Raises:
        BadInput: A set that was asked for cannot be read, or does not fit the model.
    """
    dataset = find_data(provenance, data=data, data_dir=data_dir, shape=shape, notify=notify)
    return None if dataset is None else calibrate(dataset, samples, seed)


def calibrate(dataset: Dataset, samples: int, seed: int) -> Calibration:
    """Return training images of a data set, drawn by a seed."""
    part = dataset.train.take(samples, seed)
    facts = {"data": dataset.name, "split": "train", "n": len(part), "seed": seed}
    return Calibration(part.batch(slice(None)), {**facts, "method": "min-max"})


class Maker(Protocol):
    """Makes the quantised files of one format; ``float_path`` is the file they start from."""

    float_path: Path

    def activations(self, scheme: Scheme) -> tuple[str, ...]:
        """Return what has to be calibrated."""
        ...

    def calibration_file(self, names: tuple[str, ...]) -> Path:
        """Return a float file that shows these activations."""
        ...

    def write(self, scheme: Scheme, path: Path) -> tuple[LayerPrecision, ...]:
        """Write a file and return the precision of its layers."""
        ...


class OnnxMaker:
    """Makes quantised .onnx files."""

    def __init__(self, order: Order, folder: Path) -> None:
        import onnx

        from sepdeploy.exporters.onnx_file.write import write_onnx

        self.float_path = folder / "float.onnx"
        write_onnx(
            order.canonical,
            self.float_path,
            choices=order.choices,
            entry=order.entry,
            simplify=order.simplify,
        )
        self.model = onnx.load(str(self.float_path))

    def activations(self, scheme: Scheme) -> tuple[str, ...]:
        """Return what has to be calibrated."""
        from sepdeploy.exporters.quantize import onnx_activations

        return onnx_activations(self.model, scheme)

    def calibration_file(self, names: tuple[str, ...]) -> Path:
        """Return a float file that shows these activations."""
        return self.float_path

    def write(self, scheme: Scheme, path: Path) -> tuple[LayerPrecision, ...]:
        """Write a file and return the precision of its layers."""
        from sepdeploy.exporters.onnx_graph.graph import serialize
        from sepdeploy.exporters.quantize import quantize_onnx

        model, precisions = quantize_onnx(self.model, scheme)
        if model.ByteSize() > PROTOBUF_LIMIT:
            raise BadInput(
                f"{path.name} would hold {model.ByteSize() / 1e9:.1f} GB even at --quantize "
                f"{scheme.mode}; one ONNX file holds at most 2 GB",
                hint="compress the model first, or export it with --quantize none",
            )
        write_bytes(path, serialize(model))
        return precisions


class TfliteMaker:
    """Makes quantised .tflite files."""

    def __init__(self, order: Order, folder: Path) -> None:
        from sepdeploy.exporters.quantize import tflite_graph, write_tflite_graph

        self.float_path = folder / "float.tflite"
        self.order = order
        self.graph = tflite_graph(order.canonical, order.choices)
        write_tflite_graph(self.graph, self.float_path, entry=order.entry, target=order.target)

    def activations(self, scheme: Scheme) -> tuple[str, ...]:
        """Return what has to be calibrated."""
        from sepdeploy.exporters.quantize import tflite_activations

        return tflite_activations(self.graph, scheme, self.order.target)

    def calibration_file(self, names: tuple[str, ...]) -> Path:
        """Return a float file that shows these activations."""
        from sepdeploy.exporters.quantize import with_outputs, write_tflite_graph

        path = self.float_path.with_name("calibration.tflite")
        write_tflite_graph(with_outputs(self.graph, names), path, target=self.order.target)
        return path

    def write(self, scheme: Scheme, path: Path) -> tuple[LayerPrecision, ...]:
        """Write a file and return the precision of its layers."""
        from sepdeploy.exporters.quantize import quantize_tflite, write_tflite_graph

        graph, precisions = quantize_tflite(self.graph, scheme, target=self.order.target)
        write_tflite_graph(graph, path, entry=self.order.entry, target=self.order.target)
        return precisions


MAKERS: dict[str, type[OnnxMaker] | type[TfliteMaker]] = {"onnx": OnnxMaker, "tflite": TfliteMaker}


class Calibrated:
    """A maker that looks up, in the float file's runtime, the ranges that a scheme lacks."""

    def __init__(self, maker: Maker, order: Order, runtime: str) -> None:
        self.maker, self.order, self.runtime = maker, order, runtime
        self.ranges: dict[str, tuple[float, float]] = {}

    def write(self, scheme: Scheme, path: Path) -> tuple[LayerPrecision, ...]:
        """Write a file and return the precision of its layers.

        Raises:
            BadInput: Ranges are needed and there are no images.
        """
        from sepdeploy import measure

        lacking = tuple(n for n in self.maker.activations(scheme) if n not in self.ranges)
        if lacking:
            if self.order.calibration is None:
                raise no_images()
            shown = self.maker.calibration_file(lacking)
            images = self.order.calibration.images
            self.ranges |= measure.collect_ranges(shown, self.runtime, images, lacking)
        return self.maker.write(replace(scheme, ranges=self.ranges), path)


def no_images() -> BadInput:
    """Return the error for calibration without training images."""
    return BadInput(
        "static quantisation needs training images to see which values activations take",
        hint="pass --data NAME (and --data-dir), or use --quantize dynamic",
    )


def write_quantized(order: Order, path: Path, notify: Notify) -> Quantized:
    """Write one quantised file.

    Raises:
        BadInput: Nothing to quantise, no images for "static", numbers that are not finite.
        Missing: The runtime to calibrate or measure in is not installed.
    """
    from sepdeploy.exporters.quantize import Scheme

    if order.mode == "static" and order.calibration is None:
        raise no_images()
    names = target_runtimes(order.format, order.target)
    structures = {layer.name: layer.structure for layer in order.layers}
    with tempfile.TemporaryDirectory(prefix="sepdeploy-") as scratch:
        folder = Path(scratch)
        maker = Calibrated(MAKERS[order.format](order, folder), order, names[0] if names else "")
        if order.mode in ("static", "auto") and not names:
            raise Missing(
                f"--quantize {order.mode} needs a runtime for .{order.format} files",
                hint="pip install ai-edge-litert, or use --quantize dynamic",
            )
        notes: tuple[str, ...] = ()
        if order.mode == "auto":
            from sepdeploy.exports.quantize.fastest import write_fastest

            precisions, notes = write_fastest(maker, structures, path, folder, notify)
        else:
            precisions = maker.write(Scheme(order.mode, structures), path)
    used = order.calibration is not None and bool(maker.ranges)
    facts = dict(order.calibration.facts) if used and order.calibration is not None else {}
    only = only_runtimes(path)
    return Quantized(precisions, facts, (*notes, SINGLE_RUNTIME) if only else notes, only)


def target_runtimes(format_name: str, target: str) -> tuple[str, ...]:
    """Return the installed runtimes for a format, the target's own first."""
    from sepdeploy import runtimes

    own = {"litert": "litert", "tflite-runtime-2.14": "tflite-runtime"}.get(target)
    return tuple(sorted(runtimes.installed(format_name), key=lambda name: name != own))


def only_runtimes(path: Path) -> tuple[str, ...]:
    """Return the runtimes that a file is for; empty: every one that takes its format."""
    from sepdeploy.exporters.tflite_file import read_tflite
    from sepdeploy.exporters.tflite_file.format.versions import PER_CHANNEL_LAYER

    if path.suffix != ".tflite":
        return ()
    try:
        ops = read_tflite(path).ops
    except BadInput:  # whoever opens it says so
        return ()
    newer = any(o.kind == "FULLY_CONNECTED" and o.version >= PER_CHANNEL_LAYER for o in ops)
    return ("litert",) if newer else ()
