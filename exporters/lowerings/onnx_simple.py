"""Low-rank and dense forms as standard ONNX ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sepdeploy.exporters.lowerings.emit import Emitter, Weight
from sepdeploy.structures import Spec


def two_gemm(e: Emitter, spec: Any, x: str, factors: Sequence[Weight], bias: Weight) -> str:
    """(x U) Vᵀ + b, the singular values already inside V."""
    left, right = factors
    inner = e.node("Gemm", x, e.use(left))
    return e.node("Gemm", inner, e.use(right), e.use(bias), transB=1)


def dense(e: Emitter, spec: Spec, x: str, factors: Sequence[Weight], bias: Weight) -> str:
    """The product of the factors as one matrix; only where the planner answers "dense"."""
    arrays = [f.array for f in factors if f.array is not None]
    if len(arrays) != len(factors):
        message = "the dense form needs the numbers of its factors"
        raise ValueError(message)
    matrix = spec.dense_matrix(arrays).astype(arrays[0].dtype)
    weight = Weight.known(f"{e.prefix.rpartition('/')[0]}.weight", matrix)
    return e.node("Gemm", x, e.use(weight), e.use(bias), transB=1)
