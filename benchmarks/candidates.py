"""Every way to write one structured layer that the planner's rule is judged against.

A candidate is a file. Forms that the product writes come from its own writers; the others
(batched products and convolutions in TFLite, products in an order that no rule takes) are built
here as graphs of standard ops and pass through the same writers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from sepdeploy.exporters.domain import DOMAIN
from sepdeploy.exporters.families import FAMILIES
from sepdeploy.exporters.families.debut import MERGED_GROWTH
from sepdeploy.exporters.families.debut_onnx import bmm, conv
from sepdeploy.exporters.families.emit import Emitter, Weight
from sepdeploy.exporters.families.kron_merge import groupings, merged_spec
from sepdeploy.exporters.families.kron_onnx import conv2d, gemm2d, mm, tt
from sepdeploy.exporters.onnx_file.write import write_onnx
from sepdeploy.exporters.onnx_graph.merging import merged_for_tflite
from sepdeploy.exporters.plan import plan
from sepdeploy.exporters.tflite_file.write import write_tflite
from sepdeploy.records import LoweringChoice
from sepdeploy.structures import DebutSpec, DenseSpec, KronSpec, LowRankSpec, Spec
from sepdeploy.structures.debut.chain import merged_chain

Array = NDArray[Any]
Writer = Callable[[Path], None]
RULE, DENSE = "rule", "dense"
BOTH_RUNTIMES = "tflite-runtime-2.14"  # operator versions that both runtimes accept


@lru_cache(maxsize=2)
def weights(spec: Spec) -> dict[str, Array]:
    """Seeded weights of a layer: its factors by name, then its bias (which is never zero)."""
    rng = np.random.default_rng(0)
    found: dict[str, Array] = {}
    for index, shape in enumerate(spec.factor_shapes):
        array = rng.standard_normal(shape, dtype=np.float32)
        found[f"layer.factors.{index}"] = array / np.float32(math.sqrt(shape[-1]))
    found["layer.bias"] = rng.standard_normal(spec.out_features, dtype=np.float32)
    return found


def model_of(
    spec: Spec, nodes: list[Any], tensors: list[TensorProto], *, own: bool = False
) -> ModelProto:
    """Return a graph "input" (batch, n_in) → "logits" (batch, n_out)."""
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("input", spec.in_features), ("logits", spec.out_features))
    ]
    graph = helper.make_graph(nodes, "layer", infos[:1], infos[1:], tensors)
    opsets = [helper.make_opsetid("", 20)] + ([helper.make_opsetid(DOMAIN, 1)] if own else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def canonical(spec: Spec) -> ModelProto:
    """Return the canonical graph of one layer; a dense one is a Gemm."""
    held = weights(spec)
    if isinstance(spec, DenseSpec):
        node = helper.make_node("Gemm", ["input", *held], ["logits"], "layer", transB=1)
    else:
        family = FAMILIES[spec.structure]
        inputs = ["input", *held]
        node = helper.make_node(
            family.op_type, inputs, ["logits"], "layer", domain=DOMAIN, **family.attributes(spec)
        )
    tensors = [numpy_helper.from_array(array, name) for name, array in held.items()]
    return model_of(spec, [node], tensors, own=not isinstance(spec, DenseSpec))


def spelled_out(spec: Spec, build: Any, order: tuple[int, ...]) -> ModelProto:
    """Return the layer in one form and one order (or cuts) as a graph of standard ops."""
    *factors, bias = (Weight.known(name, array) for name, array in weights(spec).items())
    emitter = Emitter("layer")
    build(emitter, spec, "input", factors, bias, order)
    emitter.nodes[-1].output[0] = "logits"
    return model_of(spec, emitter.nodes, list(emitter.constants.values()))


def write(model: ModelProto, path: Path, choices: tuple[LoweringChoice, ...] = ()) -> None:
    """Write a graph with the product's own writer of the path's format."""
    if path.suffix == ".onnx":
        write_onnx(model, path, choices=choices)
    else:
        write_tflite(model, path, runtime=BOTH_RUNTIMES, choices=choices)


def write_rule(spec: Spec, path: Path) -> str:
    """Write a layer as the planner has it, and return the form's name."""
    model = canonical(spec)
    choices = plan(model, path.suffix[1:])
    write(model if path.suffix == ".onnx" else merged_for_tflite(model), path, choices)
    return choices[0].form


def write_dense(n_in: int, n_out: int, path: Path) -> None:
    """Write the dense layer of this size."""
    write(canonical(DenseSpec(n_in, n_out)), path)
    weights.cache_clear()


def candidates(spec: Spec, format: str) -> Iterator[tuple[str, Writer]]:
    """Yield name and writer of every candidate beside the rule and dense."""
    if isinstance(spec, LowRankSpec):
        form = "gemm2" if format == "onnx" else "fc"
        yield form, partial(_write_form, spec, form)
    elif isinstance(spec, DebutSpec):
        yield from _debut_forms(spec, format)
    elif isinstance(spec, KronSpec):
        for groups in groupings(spec):
            merged = merged_spec(spec, groups)
            suffix = "" if merged == spec else f" {'×'.join(map(str, merged.in_shape))}"
            forms = _onnx_forms if format == "onnx" else _tflite_forms
            for name, writer in forms(merged):
                yield name + suffix, writer


def _debut_forms(spec: DebutSpec, format: str) -> Iterator[tuple[str, Writer]]:
    """Every way to merge neighbours that stays within twice the planner's limit, in either form."""
    count = len(spec.chain)
    for length in reversed(range(count)):
        for inner in itertools.combinations(range(1, count), length):
            cuts = (0, *inner, count)
            merged = DebutSpec.of(merged_chain(spec.chain, cuts))
            if merged.weight_params > 2 * MERGED_GROWTH * spec.weight_params:
                continue
            suffix = "" if merged == spec else f" ×{'.'.join(map(str, inner))}"
            for name, build in (("conv", conv), ("bmm", bmm)):
                if format == "onnx":
                    yield name + suffix, partial(_write_spelled, spec, build, cuts)
                else:
                    yield name + suffix, partial(_write_form, merged, name)


def _write_form(spec: Spec, form: str, path: Path) -> None:
    choice = LoweringChoice("layer", spec.structure, form)
    write(canonical(spec), path, (choice,))


def _write_spelled(spec: Spec, build: Any, order: tuple[int, ...], path: Path) -> None:
    write(spelled_out(spec, build, order), path)


def _onnx_forms(spec: KronSpec) -> Iterator[tuple[str, Writer]]:
    modes = tuple(range(len(spec.in_shape)))
    orders = list(itertools.permutations(modes)) if len(modes) <= 3 else [spec.order]
    for order in orders:
        label = "".join(map(str, order))
        yield f"gemm2d {label}", partial(_write_spelled, spec, gemm2d, order)
    yield "mm", partial(_write_spelled, spec, mm, spec.order)
    if len(modes) == 2:
        yield "tt", partial(_write_spelled, spec, tt, (1, 0))
        yield "conv2d", partial(_write_spelled, spec, conv2d, (1, 0))


def _tflite_forms(spec: KronSpec) -> Iterator[tuple[str, Writer]]:
    modes = tuple(range(len(spec.in_shape)))
    yield "fc_t", partial(_write_form, spec, "fc_t")
    yield "fc_bmm", partial(_write_form, spec, "fc_bmm")
    for order in itertools.permutations(modes):
        if len(modes) == 2:
            label = "".join(map(str, order))
            yield f"fc_t {label}", partial(_write_spelled, spec, gemm2d, order)
    yield "bmm", partial(_write_spelled, spec, mm, spec.order)
    if len(modes) == 2:
        yield "conv", partial(_write_spelled, spec, conv2d, (1, 0))
