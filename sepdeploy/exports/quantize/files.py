"""Quantised files: calibrate a float file in its runtime, then write it at lower precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sepdeploy.errors import BadInput, Missing, Unstable
from sepdeploy.exporters.formats import Format, Order, Quantizer
from sepdeploy.exporters.modes import Mode
from sepdeploy.files import scratch
from sepdeploy.records import LayerPrecision, LayerRecord, Notify

if TYPE_CHECKING:
    from sepdeploy.data import Dataset
    from sepdeploy.exporters.quantize import Scheme

MOSTLY = 0.9  # of the float file's bytes
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
class Quantized:
    """What became of a file."""

    precisions: tuple[LayerPrecision, ...] = ()
    calibration: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def calibrate(dataset: Dataset, samples: int, seed: int) -> Calibration:
    """Return training images of a data set, drawn by a seed.

    Never test images: ranges fitted to them would flatter the accuracy that they measure.
    """
    part = dataset.train.take(samples, seed)
    facts = {"data": dataset.name, "split": "train", "n": len(part), "seed": seed}
    return Calibration(part.batch(slice(None)), {**facts, "method": "min-max"})


class Calibrated:
    """A quantiser that looks up, in the float file's runtime, the ranges that a scheme lacks."""

    def __init__(self, maker: Quantizer, runtime: str, calibration: Calibration | None) -> None:
        self.maker, self.runtime, self.calibration = maker, runtime, calibration
        self.ranges: dict[str, tuple[float, float]] = {}

    def write(self, scheme: Scheme, path: Path) -> tuple[LayerPrecision, ...]:
        """Write a file and return the precision of its layers.

        Raises:
            BadInput: Ranges are needed and there are no images.
        """
        from sepdeploy import measure

        lacking = tuple(n for n in self.maker.activations(scheme) if n not in self.ranges)
        if lacking:
            if self.calibration is None:
                raise no_images()
            shown = self.maker.calibration_file(lacking)
            self.ranges |= measure.collect_ranges(
                shown, self.runtime, self.calibration.images, lacking
            )
        return self.maker.write(replace(scheme, ranges=self.ranges), path)


def _say_if_idle(
    maker: Calibrated, precisions: Sequence[LayerPrecision], path: Path, notify: Notify
) -> None:
    """Say where int8 with run-time scales brought nothing: little of it is int8, or no speed."""
    from sepdeploy.exporters.quantize import quantized_layers
    from sepdeploy.exports.quantize.fastest import TIE, processor_times

    if path.stat().st_size > MOSTLY * maker.maker.float_path.stat().st_size:
        done = len(quantized_layers(precisions))
        notify(
            f"{path.name}: dynamic int8 applies to {done} of {len(precisions)} layers: "
            "nearly all of the file stays float; --quantize static reaches convolutions"
        )
    if not maker.runtime:
        return
    files = {"int8": path, "float": maker.maker.float_path}
    try:
        times = processor_times(files, maker.runtime)
    except Unstable:
        return
    if times["int8"] > times["float"] * TIE:
        notify(
            f"{path.name}: dynamic int8 is slower than float in {maker.runtime}: "
            f"{times['int8']:.1f} µs, not {times['float']:.1f}; --quantize static or auto may help"
        )


def no_images() -> BadInput:
    """Return the error for calibration without training images."""
    return BadInput(
        "static quantisation needs training images to see which values activations take",
        hint="pass --data NAME (and --data-dir), or use --quantize dynamic",
    )


def write_quantized(
    order: Order,
    row: Format,
    mode: Mode,
    layers: Sequence[LayerRecord],
    calibration: Calibration | None,
    path: Path,
    notify: Notify,
) -> Quantized:
    """Write one quantised file.

    Args:
        order: What the float file would be written from.
        row: The format.
        mode: The quantisation.
        layers: The layer table.
        calibration: Training images, where there are some.
        path: The file.
        notify: Told what an automatic choice was.

    Raises:
        BadInput: Nothing to quantise, no images where they are needed, numbers that are not finite.
        Missing: The runtime to calibrate or measure in is not installed.
    """
    from sepdeploy import runtimes
    from sepdeploy.exporters.quantize import Scheme

    # The file's own runtime first: "tflite-runtime-2.14" is that version of tflite-runtime.
    able = sorted(runtimes.installed(row.name), key=lambda name: not order.runtime.startswith(name))
    if mode.calibrated and not able:
        raise Missing(
            f"--quantize {mode.name} needs a runtime for {row.suffix} files",
            hint="pip install ai-edge-litert, or use --quantize dynamic",
        )
    structures = {layer.name: layer.structure for layer in layers}
    notes: tuple[str, ...] = ()
    with scratch() as folder:
        maker = Calibrated(row.quantizer(order, folder), able[0] if able else "", calibration)
        if mode.name == "auto":
            from sepdeploy.exports.quantize.fastest import write_fastest

            precisions, notes = write_fastest(maker, layers, path, folder, notify)
        else:
            precisions = maker.write(Scheme(mode.name, structures), path)
            if mode.name == "dynamic":
                _say_if_idle(maker, precisions, path, notify)
    facts = dict(calibration.facts) if calibration is not None and maker.ranges else {}
    return Quantized(precisions, facts, (*notes, SINGLE_RUNTIME) if row.runtimes(path) else notes)
