"""The table of TFLite forms as the planner sees it; the writer builds them by name.

Small adjacent factors are merged (three factors as two: 1.1–1.5× faster). Moving the activation
between two products and multiplying it in place from the left are close: in place it is up to 14 %
faster in LiteRT, where its order costs no more and its products are wide, and many times slower
elsewhere. Dense is the answer only where it needs no more multiplications and at most twice the
weights: then it cannot be slower.
"""

from __future__ import annotations

import math
from functools import lru_cache

from sepdeploy.exporters.lowerings.form import Form
from sepdeploy.exporters.lowerings.merge import Groups, groupings, merged_spec
from sepdeploy.exporters.lowerings.tflite import KronShapes, contraction_order, order_cost
from sepdeploy.structures import KronSpec, Spec

DENSE_GROWTH = 2
IN_PLACE_GAIN = 0.93  # cost of a product in place against one whose operand is moved, LiteRT 2.3
WIDEST_LEFT = 64  # side of a factor that multiplies from the left
NARROWEST_COLUMNS = 32  # of what it multiplies
MAX_MERGED_MODES = 6  # above, orders are too many to look at


@lru_cache(maxsize=4096)
def best_groups(spec: KronSpec) -> Groups:
    """The adjacent modes to merge before a layer is written: the cheapest way, the first of two."""
    if len(spec.in_shape) > MAX_MERGED_MODES:
        return tuple((mode,) for mode in range(len(spec.in_shape)))
    return min(groupings(spec), key=lambda groups: _cost(merged_spec(spec, groups)))


def _cost(spec: KronSpec) -> int:
    """Multiplications and moves per sample in the best order, a plain input taken."""
    shapes = KronShapes(spec.in_shape, spec.out_shape, spec.terms)
    memory = range(len(spec.in_shape))
    return order_cost(shapes, memory, contraction_order(shapes, memory))


def _never(spec: Spec) -> str:
    return ""


def _written(spec: Spec) -> Spec:
    return merged_spec(spec, best_groups(spec)) if isinstance(spec, KronSpec) else spec


def _macs(spec: Spec) -> float:
    return _written(spec).macs


def _weights(spec: Spec) -> int:
    return _written(spec).weight_params


def _in_place_macs(spec: Spec) -> float:
    """Multiplications of the only order that moves nothing: the last mode first."""
    written = _written(spec)
    if not isinstance(written, KronSpec) or len(written.in_shape) != 2:
        return math.inf
    (n1, n2), (m1, m2) = written.in_shape, written.out_shape
    return IN_PLACE_GAIN * (n1 * n2 * m2 + n1 * m1 * m2)


def _refuse_in_place(spec: Spec) -> str:
    written = _written(spec)
    if not isinstance(written, KronSpec) or len(written.in_shape) != 2 or written.terms > 1:
        return "needs two modes after merging and a single term"
    left = max(written.in_shape[0], written.out_shape[0])
    if left > WIDEST_LEFT or written.out_shape[1] < NARROWEST_COLUMNS:
        return "its products per sample would be too narrow"
    return ""


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
        Form(
            "fc_bmm",
            _refuse_in_place,
            _in_place_macs,
            _weights,
            None,
            "FULLY_CONNECTED, then BATCH_MATMUL in place",
        ),
        _DENSE,
    ),
    "lowrank": (
        Form("fc", _never, _macs, _weights, None, "two FULLY_CONNECTED, the core folded in"),
        _DENSE,
    ),
}
