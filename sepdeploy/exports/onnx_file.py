"""Somebody else's ONNX file as the source of an export; torch is not needed.

The file itself, run by ONNX Runtime in a child process, is what exported files are compared with:
nothing of what this program made of its graph stands on that side of the comparison.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sepdeploy.errors import BadInput, Missing, SepdeployError
from sepdeploy.exporters.formats import ONNX, named_format
from sepdeploy.exporters.modes import HALF_TOLERANCE, TOLERANCE
from sepdeploy.exports.judged_images import reference_inputs
from sepdeploy.exports.manifest import read_manifest
from sepdeploy.exports.named import (
    BATCHES,
    Named,
    NamedReference,
    asked,
    makeable,
    tensor_specs,
)
from sepdeploy.exports.options import EvaluationOptions, ExportOptions, Output
from sepdeploy.exports.proof import EVALUATOR_MACS, EVALUATOR_SAMPLES
from sepdeploy.exports.source import Array, Reference
from sepdeploy.exports.witness import ULP, witnessed
from sepdeploy.files import scratch
from sepdeploy.measure import run_outputs
from sepdeploy.records import InputSpec, LayerRecord, Notify, TensorSpec
from sepdeploy.runtimes.runner.contract import MOST_VALUES
from sepdeploy.runtimes.runner.ports import Port, main_output

if TYPE_CHECKING:
    from onnx import ModelProto

RUNTIME = "onnxruntime"
ONLY = "write it cleaned to another folder: -o DIR; or export to .tflite: -f tflite"
SIZES = "export the model with an open batch, or a small one"


def is_foreign(path: Path) -> bool:
    """Whether a file that is to be exported is an ONNX file rather than a model file."""
    return named_format(path) is ONNX


class OnnxFile:
    """A foreign .onnx file; its values are passed on as they are, without normalisation."""

    def __init__(
        self,
        path: Path,
        notify: Notify,
        kept: Sequence[str] = (),
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        """Take a file, the names of the only outputs to keep (none: all), and open sizes."""
        self.path, self._notify, self._kept = path, notify, tuple(kept)
        self._shapes = dict(shapes or {})
        self._own: tuple[TensorSpec, ...] = ()
        self._in_half = False
        self.provenance: dict[str, Any] = {"source": ONNX.name}
        if kept:
            self.provenance["outputs"] = list(kept)
        if shapes:
            self.provenance["shapes"] = {name: list(shape) for name, shape in shapes.items()}

    @cached_property
    def canonical(self) -> ModelProto:
        """The canonical graph.

        Raises:
            BadInput: Damaged, more than one input, open sizes, or operators of another domain.
        """
        from sepdeploy.exporters.capture import normalize
        from sepdeploy.exporters.capture.old_forms import computes_in_half
        from sepdeploy.exporters.capture.onnx_source import read_onnx

        light, weights = read_onnx(self.path)
        self._in_half = computes_in_half(light)
        given = {spec.name: spec.dtype for spec in tensor_specs(light.graph.input)}
        model = normalize.normalize(
            light,
            weights,
            where=str(self.path),
            notify=self._notify,
            outputs=self._kept,
            shapes=self._shapes,
        )
        # What is asked for are the file's own types, which the graph may have widened.
        specs = tensor_specs(model.graph.input)
        self._own = tuple(replace(spec, dtype=given[spec.name]) for spec in specs)
        return model

    @cached_property
    def input(self) -> InputSpec | None:
        """Shape of the one float sample, None where the file takes or gives something else."""
        from sepdeploy.exporters.capture.normalize import check_sizes, input_shape

        graph, specs = self.canonical.graph, self._own
        outputs = tensor_specs(graph.output)
        main = main_output([Port(s.name, s.dtype, s.shape) for s in outputs])
        rows = specs[0].shape[:1]
        plain = (
            len(specs) == 1
            and specs[0].dtype == main.dtype == "float32"
            and len(specs[0].shape) > 1
        )
        if not plain or main.shape[:1] not in (rows, (-1,)):
            check_sizes(self.canonical, str(self.path))
            return None
        return InputSpec(input_shape(self.canonical, str(self.path)))

    @cached_property
    def layers(self) -> tuple[LayerRecord, ...]:
        """One record per node that carries weights."""
        from sepdeploy.exporters.graph_layers import graph_layers

        return graph_layers(self.canonical)

    @property
    def batches(self) -> tuple[int, ...]:
        """The one batch size that the file insists on, else by its work."""
        from sepdeploy.exporters.capture.normalize import fixed_batch
        from sepdeploy.exporters.graph_layers import graph_macs
        from sepdeploy.measure.proof.parity import batches_for

        fixed = fixed_batch(self.canonical)
        return batches_for(graph_macs(self.canonical)) if fixed is None else (fixed,)

    def outputs(self, options: ExportOptions, out_dir: Path) -> tuple[Output, ...]:
        """Return the files to write: .onnx only if quantised, and never over the file itself.

        Raises:
            BadInput: None is left, the custom flavour was asked for, or the manifest of another
                model would be overwritten.
        """
        found, path = options.outputs(), self.path
        if (out_dir / path.name).resolve() == path.resolve():
            found = tuple(output for output in found if output.format is not ONNX)
        if not found and not options.mode.quantized:
            raise BadInput(f"{path} is an ONNX file already", hint=ONLY)
        if not found:
            raise BadInput(
                f"the quantised .onnx file would replace {path}", hint="choose a folder with -o"
            )
        if options.mode.quantized and self.input is None:
            raise BadInput(
                f"{path}: quantised are networks of one float input (N, ...) and logits",
                hint="drop --quantize, or choose the output with --output",
            )
        if options.flavour == "custom":
            raise BadInput(
                f"{path}: the custom flavour is for models with structured layers of their own",
                hint="drop --flavour custom",
            )
        self._refuse_clash(out_dir / f"{path.stem}.manifest.json")
        return found

    def _refuse_clash(self, manifest_path: Path) -> None:
        """Keep an export of another model, whose own .onnx file this may be."""
        try:
            manifest = read_manifest(manifest_path)
        except BadInput:
            return
        if manifest.model.path != self.path.name:
            raise BadInput(
                f"{manifest_path} belongs to {manifest.model.path} and would be overwritten",
                hint="choose another folder with -o, or give one of the two models another name",
            )

    def pack(self, wanted: EvaluationOptions, notify: Notify) -> None:
        """Return None: what the outputs of a foreign file mean is not known."""

    def reference(
        self, images: Array | None, batches: tuple[int, ...], seed: int
    ) -> Reference | NamedReference:
        """Run the file on images, else on uniform inputs in [0, 1] and normal ones, half each.

        Raises:
            BadInput: The inputs fit into no memory, or the outputs are not finite.
            Missing: ONNX Runtime is not installed.
        """
        if self.input is None:
            return self._by_name(seed)
        n, shape = max(batches), self.input.shape
        if n * math.prod(shape) > MOST_VALUES:
            raise BadInput(
                f"{self.path}: an input of {[n, *shape]} fits into no memory",
                hint=SIZES,
            )
        enough = images is not None and len(images) >= n
        inputs, kind = reference_inputs(shape, images if enough else None, n, seed)
        if kind == "synthetic":
            normal = np.random.default_rng([seed, 1])  # another stream than the uniform ones
            inputs[(n + 1) // 2 :] = normal.standard_normal((n // 2, *shape), dtype=np.float32)
        with self._judged() as judged:
            found = witnessed(
                lambda asked: onnx_outputs(judged, asked, batches[-1:]),
                inputs,
                kind=kind,
                batches=batches,
                said_by=f"{self.path.name} in {RUNTIME}",
            )
            found = self._with_others(found, judged)
        if self._in_half:  # the file's own rounding is that of float16
            tolerance = np.maximum(found.tolerance, HALF_TOLERANCE)
            note = f"{self.path.name} computes in 16 bits in places; the new file in float32"
            found = replace(found, tolerance=tolerance, notes=(*found.notes, note))
        return replace(found, otherwise=lambda: self._by_evaluator(found))

    def _by_name(self, seed: int) -> NamedReference:
        """Return what the file says at all its ports, in ONNX Runtime."""
        from sepdeploy.measure.proof.ways import REFERENCE_EVALUATOR

        least = HALF_TOLERANCE if self._in_half else TOLERANCE
        for spec in self._own:
            if not makeable(spec):
                raise BadInput(
                    f"{self.path}: no inputs can be made up for '{spec.name}', which is "
                    f"{spec.dtype or 'of an unknown type'}",
                    hint="export a network that takes numbers",
                )
            if math.prod(abs(n) for n in spec.shape) * max(BATCHES) > MOST_VALUES:
                raise BadInput(f"{self.path}: input '{spec.name}' fits into no memory", hint=SIZES)

        def asked_in(runtime: str) -> NamedReference:
            def ask(feeds: Named, *, shaken: bool = False) -> Named:
                with self._judged(shaken=shaken) as judged:
                    return run_outputs(judged, runtime, tuple(feeds.values()))[1]

            said_by = f"{self.path.name} in {runtime}"
            real = any(np.dtype(s.dtype or "O").kind == "f" for s in self._own)
            moved = None if real else partial(ask, shaken=True)
            return asked(ask, self._own, said_by=said_by, seed=seed, least=least, shaken=moved)

        def otherwise() -> NamedReference | None:
            try:
                return asked_in(REFERENCE_EVALUATOR)
            except SepdeployError:
                return None

        return replace(asked_in(RUNTIME), otherwise=otherwise)

    @contextmanager
    def _judged(self, *, shaken: bool = False) -> Iterator[Path]:
        """Give the file itself; where outputs or sizes were chosen, a copy that says so.

        A ``shaken`` copy has its weights moved by their rounding.
        """
        if not (self._kept or self._shapes or shaken):
            yield self.path
            return
        import onnx

        from sepdeploy.exporters.capture.normalize import fix_sizes
        from sepdeploy.exporters.formats import PROTOBUF_LIMIT

        model = onnx.load(str(self.path))
        chosen = [o for o in model.graph.output if not self._kept or o.name in self._kept]
        fix_sizes(model, str(self.path), self._shapes)
        del model.graph.output[:]
        model.graph.output.extend(chosen)
        if shaken:
            _shake(model)
        with scratch() as folder:
            large, copy = model.ByteSize() > PROTOBUF_LIMIT, folder / self.path.name
            onnx.save(model, str(copy), save_as_external_data=large)
            try:
                yield copy
            except SepdeployError as error:  # the copy is nothing the user knows
                error.message = error.message.replace(str(copy), str(self.path))
                error.args = (error.message,)
                raise

    def _with_others(self, found: Reference, judged: Path) -> Reference:
        """Add what the file says at its further outputs.

        An output that is not finite proves nothing, and is told.
        """
        if len(self.canonical.graph.output) == 1:
            return found
        few = found.inputs[: max(found.batches)]
        _, said = run_outputs(judged, RUNTIME, (few,))
        main = main_output([Port(n, a.dtype.name, a.shape) for n, a in said.items()]).name
        others = {n: a for n, a in said.items() if n != main and a.size}
        odd = [n for n, a in others.items() if not np.isfinite(a).all()]
        notes = [f"output '{n}' is not proven: {self.path.name} is not finite there" for n in odd]
        kept = {n: a for n, a in others.items() if n not in odd}
        return replace(found, others=kept, notes=(*found.notes, *notes))

    def _by_evaluator(self, found: Reference) -> Reference | None:
        """Return what ONNX's own evaluator says to a few of the inputs, as far as that is bearable.

        A runtime may compute an operator otherwise than its definition does.
        """
        from sepdeploy.exporters.graph_layers import graph_macs
        from sepdeploy.measure import run_logits
        from sepdeploy.measure.proof.ways import REFERENCE_EVALUATOR

        if graph_macs(self.canonical) > EVALUATOR_MACS:
            return None
        few = replace(found, inputs=found.inputs[:EVALUATOR_SAMPLES], ordinary=None, others={})
        try:
            with self._judged() as judged:
                said, _ = run_logits(
                    judged, REFERENCE_EVALUATOR, few.inputs, batches=found.batches[:1], native={}
                )
        except SepdeployError:
            return None
        tolerance = np.broadcast_to(found.tolerance, len(found.inputs))[:EVALUATOR_SAMPLES]
        by = f"{self.path.name} in {REFERENCE_EVALUATOR}"
        return replace(few, outputs=said[0], tolerance=tolerance, said_by=by)

    def wrong(self, error: BadInput) -> BadInput:
        """Return the error with the file's name: what is at fault in it is named after."""
        return BadInput(f"{self.path}: {error.message}", hint=error.hint)

    def close(self) -> None:
        """Nothing is held but the graph."""


def _shake(model: ModelProto) -> None:
    """Move float32 weights by a unit in their last place, up or down, in place."""
    from onnx import TensorProto, numpy_helper

    generator = np.random.default_rng(0)
    for item in model.graph.initializer:
        if item.data_type == TensorProto.FLOAT:
            own = numpy_helper.to_array(item)
            signs = generator.choice(np.array([-ULP, ULP], np.float32), own.shape)
            moved = np.asarray(own * (1 + signs), np.float32)
            item.CopyFrom(numpy_helper.from_array(moved, item.name))


def onnx_outputs(path: Path, inputs: Array, batches: Sequence[int]) -> Array:
    """Return the outputs (N, …) of an ONNX file in ONNX Runtime, in a child process.

    Raises:
        BadInput: The runtime refuses the file or fails on it.
        Missing: ONNX Runtime is not installed.
    """
    from sepdeploy import measure, runtimes

    if RUNTIME not in runtimes.installed(ONNX.name):
        raise Missing(
            "a foreign .onnx file is judged by ONNX Runtime", hint="pip install onnxruntime"
        )
    found, _ = measure.run_logits(path, RUNTIME, inputs, batches=batches)
    outputs: Array = found[0]
    return outputs
