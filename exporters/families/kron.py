"""Kronecker layers in files: one product per mode, small adjacent factors multiplied together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper

from sepdeploy.exporters.families.dense import DENSE_TFLITE, dense_onnx
from sepdeploy.exporters.families.emit import Emitter, Weight
from sepdeploy.exporters.families.family import Attributes, Family, Form, OnnxBuilder, Shape
from sepdeploy.exporters.families.kron_cost import arrangement, constant_values, kron_cost
from sepdeploy.exporters.families.kron_merge import merge_factors, merged_spec
from sepdeploy.exporters.families.kron_onnx import conv2d, gemm2d, mm, tt
from sepdeploy.exporters.families.kron_tflite import FORMS, merge
from sepdeploy.exporters.onnx_graph.graph import attributes, initializers, tensor
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values.affine import Scaled, by_feature, data_of, known
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item
from sepdeploy.structures import KronSpec

# Weights of one factor, from where on a batch of samples is not faster any more in native kernels.
LARGEST_FUSED_FACTOR = 2_500_000
SIDES = ("in_shape", "out_shape")


def _read(found: Mapping[str, Any], shapes: Sequence[Shape]) -> KronSpec:
    in_shape, out_shape = (tuple(found.get(side, ())) for side in SIDES)
    return KronSpec(in_shape, out_shape, found.get("terms", 1))


def _attributes(spec: KronSpec) -> Attributes:
    sides = {"in_shape": list(spec.in_shape), "out_shape": list(spec.out_shape)}
    return {**sides, "terms": spec.terms}


_Builder = Callable[[Emitter, KronSpec, str, Sequence[Weight], Weight, Sequence[int]], str]


def _onnx(name: str, build: _Builder, note: str) -> Form[OnnxBuilder]:
    def lower(e: Emitter, spec: KronSpec, x: str, factors: Sequence[Weight], bias: Weight) -> str:
        found = arrangement(name, spec)
        if found is None:
            message = f"form {name} cannot write {spec}"
            raise ValueError(message)
        merged = merge_factors(e, factors, found.groups)
        return build(e, merged_spec(spec, found.groups), x, merged, bias, found.order)

    def refuse(spec: KronSpec) -> str:
        able = arrangement(name, spec) is not None
        return "" if able else "needs two modes after merging, or a single term"

    return Form(name, refuse, partial(kron_cost, name), partial(constant_values, name), lower, note)


def _cost(spec: KronSpec) -> float:
    return min(kron_cost("mm", spec), kron_cost("gemm2d", spec))


def _refuse_fused(spec: KronSpec, format: str) -> str:
    largest = max(math.prod(shape[1:]) for shape in spec.factor_shapes)
    if largest > LARGEST_FUSED_FACTOR:
        return f"a factor of {largest} weights leaves nothing to save"
    return ""


def _absorb(ctx: Context, node: Node, held: Scaled, rest: Inputs) -> list[Item | None] | None:
    """Only a scale that is one number keeps the Kronecker form."""
    modes = ctx.ints(node, "in_shape")
    factors = [data_of(rest, i) for i in range(len(modes))]
    bias = data_of(rest, len(modes))
    columns = by_feature(held, math.prod(modes))
    given = [f for f in factors if f is not None and f.ndim == 3]
    if columns is None or bias is None or len(given) != len(modes) or held.scale.size != 1:
        return None
    if [f.shape[2] for f in given] != modes or len({f.shape[0] for f in given}) != 1:
        return None
    shift = np.zeros(0, np.float32)
    for k in range(given[0].shape[0]):
        term = columns[1].reshape(modes)
        for factor in given:  # contracts the first mode and appends its result: in order at the end
            term = np.tensordot(term, factor[k], axes=(0, 1))
        shift = term.reshape(-1) if k == 0 else shift + term.reshape(-1)
    first = given[0] * held.scale.reshape(())
    return [held.value, known(first), *(known(f) for f in given[1:]), known(bias + shift)]


def _align(model: ModelProto, nodes: Sequence[NodeProto]) -> None:
    """Give all nodes the same number of factors: W = 1 ⊗ W."""
    depth = max((len(attributes(n)["in_shape"]) for n in nodes), default=0)
    held = initializers(model.graph)
    for node in nodes:
        found = attributes(node)
        missing = depth - len(found["in_shape"])
        kind = helper.tensor_dtype_to_np_dtype(held[node.input[1]].data_type)
        for i in range(missing):
            name = f"{node.name}.ones{i}"
            ones = np.zeros((found["terms"], 1, 1), kind) + 1
            model.graph.initializer.append(tensor(name, ones.astype(kind)))
            node.input.insert(1, name)
        for attribute in node.attribute:
            if missing and attribute.name in SIDES:
                shape = [1] * missing + list(attribute.ints)
                attribute.CopyFrom(helper.make_attribute(attribute.name, shape))


def _shared(spec: KronSpec, others: Sequence[KronSpec]) -> KronSpec:
    """One body serves sums of as many terms as any node of the file has."""
    return dataclasses.replace(spec, terms=max(s.terms for s in others))


def _variant(form: str, spec: KronSpec) -> str:
    """For example "gemm2d-0-1:1.0": nothing merged, mode 1 contracted before mode 0."""
    found = arrangement(form, spec)
    return form if found is None else f"{form}-{found.key}" + ("-sum" if spec.terms > 1 else "")


KRON = Family(
    structure="kron",
    op_type="KronLinear",
    doc="y = x Wᵀ + b with W = Σ_k F_1k ⊗ … ⊗ F_dk.",
    read=_read,
    onnx=(
        _onnx("mm", mm, "a product per mode in place"),
        _onnx("gemm2d", gemm2d, "flat products with packed factors"),
        _onnx("tt", tt, "both factors on the right, transposes between"),
        _onnx("conv2d", conv2d, "a 1×1 convolution over rows"),
        dense_onnx(_cost),
    ),
    tflite=(*FORMS, DENSE_TFLITE),
    roles=lambda spec: [f"factors.{k}" for k in range(len(spec.in_shape))],
    ints=SIDES,
    counts=("terms",),
    derived=lambda found: {1 + len(found["in_shape"]): "bias"},  # a sum over the modes
    attributes=_attributes,
    absorb=_absorb,
    merge=merge,
    refuse_fused=_refuse_fused,
    align=_align,
    shared=_shared,
    variant=_variant,
)
