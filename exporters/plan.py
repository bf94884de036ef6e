"""Planner: which lowering form each structured layer gets, by rule and always the same."""

from __future__ import annotations

from typing import Any

from onnx import ModelProto

from sepdeploy.errors import unknown_name
from sepdeploy.exporters.domain import OPS, constant_shapes, node_spec, structured_nodes
from sepdeploy.exporters.lowerings import ONNX_FORMS, TFLITE_FORMS
from sepdeploy.exporters.lowerings.form import Form
from sepdeploy.records import LoweringChoice, Refusal
from sepdeploy.structures import Spec

FORMATS: dict[str, dict[str, tuple[Form[Any], ...]]] = {
    "onnx": ONNX_FORMS,
    "tflite": TFLITE_FORMS,
}


def plan(canonical: ModelProto, format: str) -> tuple[LoweringChoice, ...]:
    """Choose a form for every structured layer.

    Args:
        canonical: A canonical graph; only its shapes matter.
        format: "onnx" or "tflite".

    Returns:
        One choice per structured layer in graph order, with the refused forms and why.

    Raises:
        BadInput: Unknown format, or a node whose shapes contradict each other.
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    shapes = constant_shapes(canonical)
    return tuple(
        choose(node.name, node_spec(node, shapes), FORMATS[format][OPS[node.op_type].structure])
        for node in structured_nodes(canonical)
    )


def choose(layer: str, spec: Spec, forms: tuple[Form[Any], ...]) -> LoweringChoice:
    """The cheapest form that is not refused; the earlier one of two that cost the same."""
    reasons = {form.name: form.refuse(spec) for form in forms}
    able = [form for form in forms if not reasons[form.name]]
    best = min(able, key=lambda form: form.cost(spec))
    refused = tuple(
        Refusal(
            form.name,
            reasons[form.name]
            or f"estimated {form.cost(spec):.1f} µs against {best.cost(spec):.1f} µs",
        )
        for form in forms
        if form is not best
    )
    return LoweringChoice(layer, spec.structure, best.name, best.note, refused)
