"""The table of ONNX forms.

A layer is written as a dense matrix only where that is estimated at least a tenth faster and
costs no size worth speaking of: at most 16 KiB, or twice the factors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from sepdeploy.exporters.lowerings.emit import Emitter, Weight
from sepdeploy.exporters.lowerings.form import Form
from sepdeploy.exporters.lowerings.merge import merge_factors, merged_spec
from sepdeploy.exporters.lowerings.onnx_cost import (
    arrangement,
    constant_values,
    dense_cost,
    kron_cost,
    lowrank_cost,
)
from sepdeploy.exporters.lowerings.onnx_kron import conv2d, gemm2d, mm, tt
from sepdeploy.exporters.lowerings.onnx_simple import dense, two_gemm
from sepdeploy.structures import KronSpec, LowRankSpec, Spec

OnnxBuilder = Callable[[Emitter, Any, str, Sequence[Weight], Weight], str]

SMALL_DENSE_BYTES = 16 << 10
DENSE_GROWTH = 2
DENSE_GAIN = 1.1


class _KronBuilder(Protocol):
    def __call__(
        self,
        e: Emitter,
        spec: KronSpec,
        x: str,
        factors: Sequence[Weight],
        bias: Weight,
        order: Sequence[int],
    ) -> str: ...


def _kron(name: str, build: _KronBuilder, note: str) -> Form[OnnxBuilder]:
    def lower(e: Emitter, spec: KronSpec, x: str, factors: Sequence[Weight], bias: Weight) -> str:
        found = arrangement(name, spec)
        if found is None:
            message = f"form {name} cannot write {spec}"
            raise ValueError(message)
        merged = merge_factors(e, factors, found.groups)
        return build(e, merged_spec(spec, found.groups), x, merged, bias, found.order)

    def refuse(spec: Spec) -> str:
        able = isinstance(spec, KronSpec) and arrangement(name, spec) is not None
        return "" if able else "needs two modes after merging, or a single term"

    def cost(spec: Spec) -> float:
        return kron_cost(name, spec) if isinstance(spec, KronSpec) else float("inf")

    return Form(name, refuse, cost, partial(constant_values, name), lower, note)


def _never(spec: Spec) -> str:
    return ""


def _lowrank_cost(spec: Spec) -> float:
    return lowrank_cost(spec) if isinstance(spec, LowRankSpec) else float("inf")


def _structured_cost(spec: Spec) -> float:
    if isinstance(spec, KronSpec):
        return min(kron_cost("mm", spec), kron_cost("gemm2d", spec))
    return _lowrank_cost(spec)


def _refuse_dense(spec: Spec) -> str:
    values = constant_values("dense", spec)
    allowed = max(SMALL_DENSE_BYTES // 4, DENSE_GROWTH * spec.weight_params)
    if values > allowed:
        return f"{values} weights in place of {spec.weight_params}"
    if _structured_cost(spec) < DENSE_GAIN * dense_cost(spec):
        return "not faster enough to give up the factors"
    return ""


_DENSE: Form[OnnxBuilder] = Form(
    "dense",
    _refuse_dense,
    dense_cost,
    partial(constant_values, "dense"),
    dense,
    "dense is faster here, at no size worth speaking of",
)

ONNX_FORMS: dict[str, tuple[Form[OnnxBuilder], ...]] = {
    "kron": (
        _kron("mm", mm, "a product per mode in place"),
        _kron("gemm2d", gemm2d, "flat products with packed factors"),
        _kron("tt", tt, "both factors on the right, transposes between"),
        _kron("conv2d", conv2d, "a 1×1 convolution over rows"),
        _DENSE,
    ),
    "lowrank": (
        Form(
            "gemm2",
            _never,
            _lowrank_cost,
            partial(constant_values, "gemm2"),
            two_gemm,
            "two products, the core folded in",
        ),
        _DENSE,
    ),
}
