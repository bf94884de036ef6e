"""Low-rank layers in files: two products, the core folded in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sepdeploy.errors import GRAPH, BadInput
from sepdeploy.exporters.families.cost import dense_work
from sepdeploy.exporters.families.dense import DENSE_TFLITE, dense_onnx
from sepdeploy.exporters.families.emit import Emitter, Weight
from sepdeploy.exporters.families.family import Family, Form, Shape, never
from sepdeploy.exporters.tflite_file.format.graph import Array
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values.affine import Scaled, by_feature, data_of, known
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item
from sepdeploy.exporters.tflite_file.values.contract import contract
from sepdeploy.exporters.tflite_file.values.layout import Value
from sepdeploy.structures import LowRankSpec

# From this rank on, LiteRT's two products leave nothing to save.
LARGEST_FUSED_RANK_TFLITE = 256


def _read(attributes: Mapping[str, Any], shapes: Sequence[Shape]) -> LowRankSpec:
    u, v = (shapes[i] if i < len(shapes) else () for i in (0, 1))
    if len(u) != 2 or len(v) != 2:
        raise BadInput("U and V must be constant matrices", hint=GRAPH)
    return LowRankSpec(u[0], v[0], u[1])


def two_gemm(e: Emitter, spec: LowRankSpec, x: str, factors: Sequence[Weight], bias: Weight) -> str:
    """(x U) Vᵀ + b, the singular values already inside V."""
    left, right = factors
    inner = e.node("Gemm", x, e.use(left))
    return e.node("Gemm", inner, e.use(right), e.use(bias), transB=1)


def _fc(ctx: Context, spec: LowRankSpec, x: Value, factors: Sequence[Array], bias: Array) -> Value:
    u, v = factors
    last = len(x.shape) - 1
    inner = contract(ctx.b, x, last, u.T, None, "U")
    return contract(ctx.b, inner, last, v, bias, "V")


def _cost(spec: LowRankSpec) -> float:
    work = dense_work(spec.in_features, spec.rank) + dense_work(spec.rank, spec.out_features)
    return work.cost


def _weights(spec: LowRankSpec) -> int:
    return spec.weight_params


def _refuse_fused(spec: LowRankSpec, format: str) -> str:
    if format == "tflite" and spec.rank > LARGEST_FUSED_RANK_TFLITE:
        return f"rank {spec.rank} leaves nothing to save"
    return ""


def _absorb(ctx: Context, node: Node, held: Scaled, rest: Inputs) -> list[Item | None] | None:
    u, v, bias = (data_of(rest, i) for i in range(3))
    columns = None if u is None else by_feature(held, u.shape[0])
    if u is None or v is None or bias is None or columns is None:
        return None
    return [
        held.value,
        known(u * columns[0][:, None]),
        known(v),
        known(bias + v @ (columns[1] @ u)),
    ]


LOWRANK = Family(
    structure="lowrank",
    op_type="LowRankLinear",
    doc="y = (x U) Vᵀ + b.",
    read=_read,
    onnx=(
        Form("gemm2", never, _cost, _weights, two_gemm, "two products, the core folded in"),
        dense_onnx(_cost),
    ),
    tflite=(
        Form("fc", never, _weights, _weights, _fc, "two FULLY_CONNECTED, the core folded in"),
        DENSE_TFLITE,
    ),
    roles=lambda spec: ("U", "V"),
    derived=lambda found: {2: "V"},  # V Sᵀ
    absorb=_absorb,
    refuse_fused=_refuse_fused,
)
