"""The table of TFLite forms as the planner sees it; the writer builds them by name.

There is one structured form per family, the one measured best. Dense is the answer only where it
needs no more multiplications and at most twice the weights: then it cannot be slower.
"""

from __future__ import annotations

from sepdeploy.exporters.lowerings.form import Form
from sepdeploy.structures import Spec

DENSE_GROWTH = 2


def _never(spec: Spec) -> str:
    return ""


def _macs(spec: Spec) -> float:
    return spec.macs


def _weights(spec: Spec) -> int:
    return spec.weight_params


def _dense_macs(spec: Spec) -> float:
    return spec.dense_macs


def _dense_weights(spec: Spec) -> int:
    return spec.in_features * spec.out_features


def _refuse_dense(spec: Spec) -> str:
    if _dense_weights(spec) > DENSE_GROWTH * spec.weight_params:
        return f"{_dense_weights(spec)} weights in place of {spec.weight_params}"
    if spec.dense_macs > spec.macs:
        return "more multiplications than with factors"
    return ""


_DENSE: Form[None] = Form(
    "dense", _refuse_dense, _dense_macs, _dense_weights, None, "factors need more multiplications"
)

TFLITE_FORMS: dict[str, tuple[Form[None], ...]] = {
    "kron": (
        Form("fc_t", _never, _macs, _weights, None, "FULLY_CONNECTED and TRANSPOSE per factor"),
        _DENSE,
    ),
    "lowrank": (
        Form("fc", _never, _macs, _weights, None, "two FULLY_CONNECTED, the core folded in"),
        _DENSE,
    ),
}
