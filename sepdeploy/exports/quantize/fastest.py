"""Which layers int8 makes faster, by measuring whole files in turns.

A layer on its own would be charged for the conversions at its edges, which between two int8
layers are not there. So whole files are compared: first int8 with run-time scales, int8 with
calibrated scales and float; then the faster int8 file with and without each layer, the most
expensive layer first, and every decision is kept for the next one. A tie (within 5 %) goes to the
smaller file. What is compared is the processor's time, which other work on the machine hardly
moves; where even that is unsteady nothing is decided.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sepdeploy.errors import BadInput, NoRoom, Unstable
from sepdeploy.records import LayerPrecision, LayerRecord, Notify

if TYPE_CHECKING:
    from sepdeploy.exporters.quantize import Scheme
    from sepdeploy.exports.quantize.files import Calibrated

TIE = 1.05
MOST_LAYERS = 64  # measured one by one; each costs about half a second
UNSTEADY = 0.1  # half of the 95 % interval of a time, beyond which it decides nothing
MODES = ("dynamic", "static")


def write_fastest(
    maker: Calibrated, layers: Sequence[LayerRecord], path: Path, folder: Path, notify: Notify
) -> tuple[tuple[LayerPrecision, ...], tuple[str, ...]]:
    """Write the file that is int8 where that was measured not slower than float.

    Returns:
        The precision of every layer with the measured reason, and notes for the manifest.

    Raises:
        BadInput: No layer can be quantised.
        Unstable: The machine is too busy to compare.
    """
    search = _Search(maker, path, folder, notify)
    scheme = search.choose_mode({layer.name: layer.structure for layer in layers})
    names = search.int8_layers()
    macs = {layer.name: layer.macs for layer in layers}
    names.sort(key=lambda name: -macs.get(name, 0))
    for name in names[:MOST_LAYERS]:
        scheme = search.without(scheme, name)
    if len(names) > MOST_LAYERS:
        search.notes.append(f"auto: {len(names) - MOST_LAYERS} smaller layers were not measured")
    search.finish()
    return search.precisions, tuple(search.notes)


class _Search:
    """The search's state: the best file so far stands at ``path``."""

    def __init__(self, maker: Calibrated, path: Path, folder: Path, notify: Notify) -> None:
        self.maker, self.path, self.folder, self.notify = maker, path, folder, notify
        self.precisions: tuple[LayerPrecision, ...] = ()
        self.notes: list[str] = []

    def choose_mode(self, structures: Mapping[str, str]) -> Scheme:
        """Write the faster int8 file and return its scheme."""
        from sepdeploy.exporters.quantize import Scheme

        schemes: dict[str, Scheme] = {}
        made: dict[str, tuple[LayerPrecision, ...]] = {}
        refused: BadInput | None = None
        for mode in MODES:
            if mode == "static" and self.maker.calibration is None:
                self.notes.append("auto: no training images, so calibrated scales were not tried")
                continue
            scheme = Scheme(mode, structures)
            try:
                made[mode] = self.maker.write(scheme, self._candidate(mode))
            except NoRoom:
                raise
            except BadInput as error:
                refused = error
                self.notes.append(f"auto: {error.message}")
                continue
            schemes[mode] = scheme
        if not schemes:
            assert refused is not None
            raise refused
        times = self._times({m: self._candidate(m) for m in schemes})
        fastest = min(times[m] for m in schemes)
        sizes = {m: self._candidate(m).stat().st_size for m in schemes}
        mode = min((m for m in schemes if times[m] <= fastest * TIE), key=lambda m: sizes[m])
        sizes["float"] = self.maker.maker.float_path.stat().st_size
        shown = ", ".join(f"{m} {times[m]:.1f} µs {sizes[m]:,} bytes" for m in times)
        self.notes.append(
            f"auto: {mode} int8 taken of {shown} (processor time, batch 1, {self.maker.runtime})"
        )
        self.notify(self.notes[-1])
        shutil.copyfile(self._candidate(mode), self.path)
        self.precisions = made[mode]
        return schemes[mode]

    def int8_layers(self) -> list[str]:
        """Return the layers that are int8 now."""
        from sepdeploy.exporters.quantize import quantized_layers

        return list(quantized_layers(self.precisions))

    def without(self, scheme: Scheme, layer: str) -> Scheme:
        """Keep a layer float if the file is faster for it."""
        if len(self.int8_layers()) == 1:
            return scheme  # the comparison with the float file decides
        candidate = self._candidate("without")
        tried = replace(scheme, keep_float={**scheme.keep_float, layer: "kept float"})
        self.maker.write(tried, candidate)
        times = self._times({"int8": self.path, "kept": candidate}, against_float=False)
        if times["int8"] <= times["kept"] * TIE:
            return scheme
        reason = f"{times['int8']:.1f} µs with it in int8, {times['kept']:.1f} µs in float"
        kept = replace(scheme, keep_float={**scheme.keep_float, layer: reason})
        self.precisions = self.maker.write(kept, self.path)
        self.notify(f"auto: {layer} stays float: {reason}")
        return kept

    def finish(self) -> None:
        """Fall back to the float file where all the rest of int8 together is slower."""
        times = self._times({"int8": self.path})
        if times["int8"] <= times["float"] * TIE:
            return
        reason = f"the file takes {times['int8']:.1f} µs in int8, {times['float']:.1f} µs in float"
        self.notes.append(f"auto: every layer stays float: {reason}")
        self.notify(self.notes[-1])
        shutil.copyfile(self.maker.maker.float_path, self.path)
        self.precisions = tuple(
            LayerPrecision(p.layer, "float32", p.reason or reason) for p in self.precisions
        )

    def _candidate(self, name: str) -> Path:
        return self.folder / f"{name}{self.path.suffix}"

    def _times(self, files: Mapping[str, Path], *, against_float: bool = True) -> dict[str, float]:
        """Return the processor's time of each file in µs, all timed in turns."""
        models = {**files, "float": self.maker.maker.float_path} if against_float else dict(files)
        return processor_times(models, self.maker.runtime)


def processor_times(models: Mapping[str, Path], runtime: str) -> dict[str, float]:
    """Return the processor's time of an inference in µs, by name, all files timed in turns.

    Raises:
        Unstable: The times scatter too much to decide anything, twice.
    """
    from sepdeploy import measure
    from sepdeploy.measure.summary import summarize

    wide = 0.0
    for rounds in (20, 200):
        timing = measure.Timing(
            min_rounds=rounds, min_seconds=0.01 * rounds, max_seconds=10.0, processor=True
        )
        samples = measure.time_models(models, runtime, timing).samples()
        found = {name: summarize(s) for name, s in samples.items()}
        wide = max((s.low_interval[1] - s.low_interval[0]) / 2 / s.low for s in found.values())
        if wide <= UNSTEADY:
            return {name: 1000 * s.low for name, s in found.items()}
    raise Unstable(
        f"auto cannot decide: processor times of {', '.join(models)} are uncertain by "
        f"{100 * wide:.0f} %",
        hint="export again on an idle machine, or name one: --quantize static",
    )
