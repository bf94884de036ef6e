"""Planner: which lowering form each structured layer gets, by rule and always the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from onnx import ModelProto

from sepdeploy.errors import unknown_name
from sepdeploy.exporters.domain import OPS, constant_shapes, node_spec, structured_nodes
from sepdeploy.exporters.lowerings import ONNX_FORMS, TFLITE_FORMS
from sepdeploy.exporters.lowerings.form import Form
from sepdeploy.exporters.lowerings.fused import FUSED, NOTE, refuse_fused
from sepdeploy.records import LoweringChoice, Refusal
from sepdeploy.structures import Spec

FORMATS: dict[str, dict[str, tuple[Form[Any], ...]]] = {
    "onnx": ONNX_FORMS,
    "tflite": TFLITE_FORMS,
}

DENSE = "dense"
# Forms that are right but not for every .tflite file.
NOT_FOR_TARGET = {
    "tflite-runtime-2.14": {"fc_bmm": "up to 1.3× slower than moving in this runtime"},
}
NOT_QUANTIZED = {"fc_bmm": "a constant on the left of a product has no safe integer form"}


def plan(
    canonical: ModelProto,
    format: str,
    *,
    flavour: str = "standard",
    target: str = "",
    quantized: bool = False,
) -> tuple[LoweringChoice, ...]:
    """Choose a form for every structured layer.

    Args:
        canonical: A canonical graph; only its shapes matter.
        format: "onnx" or "tflite".
        flavour: In the "custom" flavour layers are handed to the fused op where that pays.
        target: The TFLite target; by default LiteRT.
        quantized: The file's weights are going to be quantised.

    Returns:
        One choice per structured layer in graph order, with the refused forms and why.

    Raises:
        BadInput: Unknown format, or a node whose shapes contradict each other.
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    shapes = constant_shapes(canonical)
    barred = {**NOT_FOR_TARGET.get(target, {}), **(NOT_QUANTIZED if quantized else {})}
    choices = []
    for node in structured_nodes(canonical):
        spec, forms = node_spec(node, shapes), FORMATS[format][OPS[node.op_type].structure]
        choice = choose(node.name, spec, forms, barred=barred)
        choices.append(_hand_over(choice, spec, format) if flavour == "custom" else choice)
    return tuple(choices)


def _hand_over(choice: LoweringChoice, spec: Spec, format: str) -> LoweringChoice:
    """The choice for the custom flavour: the fused op, or the standard form and why."""
    reason = refuse_fused(spec, choice.form, format)
    if reason:
        return replace(choice, refused=(*choice.refused, Refusal(FUSED, reason)))
    slower = Refusal(choice.form, "measured not faster than the fused op")
    return replace(choice, form=FUSED, reason=NOTE, refused=(slower, *choice.refused))


def planned_weights(spec: Spec, format: str) -> int:
    """How many weights (bias left out) a layer holds in the form the planner gives it.

    More than its factors where small ones are merged, or where the answer is "dense".
    """
    forms = FORMATS[format].get(spec.structure)
    if forms is None:
        return spec.weight_params
    choice = choose("", spec, forms)
    return next(form for form in forms if form.name == choice.form).weights(spec)


def choose(
    layer: str,
    spec: Spec,
    forms: tuple[Form[Any], ...],
    *,
    keeps_factors: bool = False,
    barred: Mapping[str, str] = MappingProxyType({}),
) -> LoweringChoice:
    """The cheapest form that is not refused; the earlier one of two that cost the same.

    Args:
        layer: Its name.
        spec: Its structure.
        forms: The candidates.
        keeps_factors: Refuse a form that multiplies the factors out.
        barred: Forms that this file cannot have, and why.
    """
    reasons = {form.name: barred.get(form.name) or form.refuse(spec) for form in forms}
    if keeps_factors:
        reasons |= {form.name: "gives up the factors" for form in forms if form.name == DENSE}
    able = [form for form in forms if not reasons[form.name]]
    best = min(able, key=lambda form: form.cost(spec))
    refused = tuple(
        Refusal(
            form.name,
            reasons[form.name] or f"estimated at {form.cost(spec) / best.cost(spec):.2f}× the time",
        )
        for form in forms
        if form is not best
    )
    return LoweringChoice(layer, spec.structure, best.name, best.note, refused)
