"""Deformable butterfly layers in files: a product per factor, neighbouring factors merged."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper

from sepdeploy.exporters.families.cost import MACS_PER_US, Work
from sepdeploy.exporters.families.debut_onnx import Weights, bmm, conv
from sepdeploy.exporters.families.debut_tflite import batched, grouped, layer
from sepdeploy.exporters.families.dense import DENSE_TFLITE, dense_onnx
from sepdeploy.exporters.families.emit import Emitter, Weight
from sepdeploy.exporters.families.family import (
    QUANTIZED,
    Attributes,
    Family,
    Form,
    OnnxBuilder,
    Shape,
    TfliteBuilder,
    never,
)
from sepdeploy.exporters.onnx_graph.graph import attributes, initializers, tensor
from sepdeploy.exporters.tflite_file.format.graph import Array
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values.affine import Scaled, by_feature, data_of, known
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item
from sepdeploy.exporters.tflite_file.values.layout import Value
from sepdeploy.structures import DebutSpec
from sepdeploy.structures.debut.chain import Chain, merged_chain, stack_shapes, widths
from sepdeploy.structures.debut.search import weights

# Merging multiplies weights: two radix-32 factors hold 3.2 times those of five radix-4 ones and run
# ten times faster. Never more than this, nor than half of the dense matrix.
MERGED_GROWTH = 6.0
LEAST_DENSE = 2
# Microseconds of one small product and of one moved element, fitted to ONNX Runtime 1.31 over
# chains of radix 4 … 64 on 256 … 4096 features, batches 1 and 32.
CONV_GROUP, CONV_WEIGHTS_PER_US = 0.07, 15e3
PRODUCT, WEIGHTS_PER_US, MOVED = 0.09, 11e3, 3e-3
PRODUCT_MACS = 300  # of LiteRT, beside the multiply-accumulates themselves
# Grouped convolutions against batched products in LiteRT 2.3: as fast for one sample, 1.5 to 5
# times slower for 32.
GROUPED_COST = 1.3

Cuts = tuple[int, ...]


@lru_cache(maxsize=1024)
def cuts_of(form: str, chain: Chain) -> Cuts:
    """Where the merged factors of the cheapest way begin, and N; the most factors of two ways."""
    least = weights(chain)
    allowed = max(least, min(MERGED_GROWTH * least, _whole(chain) / LEAST_DENSE))
    inner = range(1, len(chain))
    found = [
        (0, *cut, len(chain))
        for count in reversed(range(len(chain)))
        for cut in itertools.combinations(inner, count)
    ]
    able = [c for c in found if weights(merged_chain(chain, c)) <= allowed]
    return min(able, key=lambda c: _WORK[form](merged_chain(chain, c)))


def _whole(chain: Chain) -> int:
    wide = widths(chain)
    return wide[0] * wide[-1]


def _conv_cost(chain: Chain) -> float:
    products = sum(
        n * (CONV_GROUP + r * s / CONV_WEIGHTS_PER_US) for n, r, s in stack_shapes(chain)
    )
    return Work(5 * len(chain) + 1, products).cost


def _bmm_cost(chain: Chain) -> float:
    fixed = sum(n * (PRODUCT + r * s / WEIGHTS_PER_US) for n, r, s in stack_shapes(chain))
    moved = MOVED * sum(widths(chain))
    work = Work(4 * len(chain) + 2, moved + weights(chain) / MACS_PER_US)
    return math.prod(work.estimate(b) + fixed for b in (1, 1, 32)) ** (1 / 3)


def _macs(chain: Chain) -> float:
    """Multiply-accumulates, and what a small product and a moved element cost, in such."""
    products = sum(n for n, _, _ in stack_shapes(chain))
    return weights(chain) + PRODUCT_MACS * products + 8 * sum(widths(chain))


_WORK = {"conv": _conv_cost, "bmm": _bmm_cost, "tflite": _macs}


def _cost(form: str, spec: DebutSpec) -> float:
    return _WORK[form](merged_chain(spec.chain, cuts_of(form, spec.chain)))


def _grouped_cost(spec: DebutSpec) -> float:
    return GROUPED_COST * _cost("tflite", spec)


def _grouped_weights(spec: DebutSpec) -> int:
    """Factors, and the zero biases that a CONV_2D has to have."""
    return _weights("tflite", spec) + sum(
        n * r for n, r, _ in stack_shapes(merged_chain(spec.chain, cuts_of("tflite", spec.chain)))
    )


def _weights(form: str, spec: DebutSpec) -> int:
    return weights(merged_chain(spec.chain, cuts_of(form, spec.chain)))


def _conv(e: Emitter, spec: DebutSpec, x: str, factors: Weights, bias: Weight) -> str:
    if e.inside_function:  # groups are numbers of the node there, which bodies are not written for
        return _bmm(e, spec, x, factors, bias)
    return conv(e, spec, x, factors, bias, cuts_of("conv", spec.chain))


def _bmm(e: Emitter, spec: DebutSpec, x: str, factors: Weights, bias: Weight) -> str:
    return bmm(e, spec, x, factors, bias, cuts_of("bmm", spec.chain))


def _tflite(product: Any) -> TfliteBuilder:
    def build(
        ctx: Context, spec: DebutSpec, x: Value, factors: Sequence[Array], bias: Array
    ) -> Value:
        return layer(product, cuts_of("tflite", spec.chain), ctx, spec, x, factors, bias)

    return build


def _best(spec: DebutSpec) -> float:
    return min(_cost("conv", spec), _cost("bmm", spec))


def _read(found: Mapping[str, Any], shapes: Sequence[Shape]) -> DebutSpec:
    sides = [list(found.get(side, ())) for side in "rst"]
    chain = tuple(zip(*sides, strict=True))
    return DebutSpec(chain, found.get("n_in", 0), found.get("n_out", 0))


def _attributes(spec: DebutSpec) -> Attributes:
    sides = {side: [f[k] for f in spec.chain] for k, side in enumerate("rst")}
    return {**sides, "n_in": spec.in_features, "n_out": spec.out_features}


def _absorb(ctx: Context, node: Node, held: Scaled, rest: Inputs) -> list[Item | None] | None:
    """Only a scale that is one number keeps the chain."""
    count = len(ctx.ints(node, "r"))
    factors = [data_of(rest, i) for i in range(count)]
    bias = data_of(rest, count)
    given = [f for f in factors if f is not None and f.ndim == 3]
    if bias is None or len(given) != count or held.scale.size != 1:
        return None
    spec = _read(node.attributes, [f.shape for f in given])
    columns = by_feature(held, spec.in_features)
    if columns is None:
        return None
    shift = spec.apply(columns[1].reshape(1, -1), given)[0]
    first = given[0] * held.scale.reshape(())
    return [held.value, known(first), *(known(f) for f in given[1:]), known(bias + shift)]


def _align(model: ModelProto, nodes: Sequence[NodeProto]) -> None:
    """Give all nodes the same number of factors: ones of r = s = 1 behind the last."""
    depth = max((len(attributes(n)["r"]) for n in nodes), default=0)
    held = initializers(model.graph)
    for node in nodes:
        found = attributes(node)
        sides = {side: list(found[side]) for side in "rst"}
        kind = helper.tensor_dtype_to_np_dtype(held[node.input[1]].data_type)
        for i in range(depth - len(sides["r"])):
            width = sides["r"][-1] * sides["t"][-1]
            name = f"{node.name}.ones{i}"
            model.graph.initializer.append(tensor(name, np.ones((width, 1, 1), kind)))
            node.input.insert(len(node.input) - 1, name)
            for side, value in (("r", 1), ("s", 1), ("t", width)):
                sides[side].append(value)
        for attribute in node.attribute:
            if attribute.name in sides:
                attribute.CopyFrom(helper.make_attribute(attribute.name, sides[attribute.name]))


def _shared(spec: DebutSpec, others: Sequence[DebutSpec]) -> DebutSpec:
    """One body pads where any node of the file does."""
    return spec if spec.padded else next((s for s in others if s.padded), spec)


def _variant(form: str, spec: DebutSpec) -> str:
    """For example "bmm-0.2.5": factors 0 and 1 merged, and 2 to 4."""
    return f"bmm-{'.'.join(map(str, cuts_of('bmm', spec.chain)))}" + "-pad" * spec.padded


def _onnx(name: str, build: OnnxBuilder, note: str) -> Form[OnnxBuilder]:
    return Form(name, never, partial(_cost, name), partial(_weights, name), build, note)


DEBUT = Family(
    structure="debut",
    op_type="DeButLinear",
    doc="y = x Wᵀ + b with W = F_N ⋯ F_1, F_i of r_i × s_i grids of t_i × t_i diagonal matrices.",
    read=_read,
    onnx=(
        _onnx("conv", _conv, "a grouped 1×1 convolution per merged factor"),
        _onnx("bmm", _bmm, "a batched product per merged factor"),
        dense_onnx(_best),
    ),
    tflite=(
        Form(
            *("bmm", never, partial(_cost, "tflite"), partial(_weights, "tflite")),
            build=_tflite(batched),
            note="BATCH_MATMUL per merged factor",
            barred={
                "tflite-runtime-2.14": "up to 13× slower than convolutions in this runtime",
                QUANTIZED: "its products have no safe integer form",
            },
        ),
        Form(
            *("conv", never, _grouped_cost, _grouped_weights),
            build=_tflite(grouped),
            note="a grouped CONV_2D per merged factor",
        ),
        DENSE_TFLITE,
    ),
    roles=lambda spec: [f"factors.{k}" for k in range(len(spec.chain))],
    ints=("r", "s", "t"),
    counts=("n_in", "n_out"),
    attributes=_attributes,
    absorb=_absorb,
    refuse_fused=lambda spec, format: "it has no native kernel yet",
    align=_align,
    shared=_shared,
    variant=_variant,
)
