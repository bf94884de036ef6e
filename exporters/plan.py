"""Planner: which lowering form each structured layer gets, by rule and always the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from onnx import ModelProto

from sepdeploy.errors import unknown_name
from sepdeploy.exporters.domain import constant_shapes, node_spec, structured_nodes
from sepdeploy.exporters.families import FAMILIES
from sepdeploy.exporters.families.dense import DENSE
from sepdeploy.exporters.families.family import QUANTIZED, Form
from sepdeploy.exporters.formats import FORMATS
from sepdeploy.records import LoweringChoice, Refusal
from sepdeploy.structures import Spec

FUSED = "fused"
FUSED_NOTE = "one native op; its function body or its standard sibling where no kernel is"


def plan(
    canonical: ModelProto,
    format: str,
    *,
    flavour: str = "standard",
    runtime: str = "",
    quantized: bool = False,
) -> tuple[LoweringChoice, ...]:
    """Choose a form for every structured layer.

    Args:
        canonical: A canonical graph; only its shapes matter.
        format: "onnx" or "tflite".
        flavour: In the "custom" flavour layers are handed to the fused op where that pays.
        runtime: Of a TFLite file; by default LiteRT.
        quantized: The file's weights are going to be quantised.

    Returns:
        One choice per structured layer in graph order, with the refused forms and why.

    Raises:
        BadInput: Unknown format, or a node whose shapes contradict each other.
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    shapes = constant_shapes(canonical)
    kinds = (QUANTIZED, runtime) if quantized else (runtime,)
    choices = []
    for node in structured_nodes(canonical):
        spec = node_spec(node, shapes)
        forms = FAMILIES[spec.structure].forms(format)
        barred = {f.name: f.barred[kind] for f in forms for kind in kinds if kind in f.barred}
        choice = choose(node.name, spec, forms, barred=barred)
        if flavour == "custom":
            choice = _hand_over(choice, spec, format)
        choices.append(choice)
    return tuple(choices)


def refuse_fused(spec: Spec, standard: str, format: str) -> str:
    """Why a layer keeps its standard form in the custom flavour, "" where the fused op takes it.

    ``python -m benchmarks.native`` measures the op in native kernels against the best standard
    form of each layer; a layer is handed over only where the op was not slower there. What it saves
    is the runtime's own work between products: nodes, moves of memory, products too narrow to fill
    vectors. Nothing of that is left where a layer is one product anyway (the answer "dense"), or
    where reading its weights is all that takes time.

    Args:
        spec: Its structure.
        standard: The form that the planner takes in the standard flavour.
        format: "onnx" or "tflite".
    """
    if standard == DENSE:
        return "one dense product is faster"
    return FAMILIES[spec.structure].refuse_fused(spec, format)


def _hand_over(choice: LoweringChoice, spec: Spec, format: str) -> LoweringChoice:
    """The choice for the custom flavour: the fused op, or the standard form and why."""
    reason = refuse_fused(spec, choice.form, format)
    if reason:
        return replace(choice, refused=(*choice.refused, Refusal(FUSED, reason)))
    slower = Refusal(choice.form, "measured not faster than the fused op")
    return replace(choice, form=FUSED, reason=FUSED_NOTE, refused=(slower, *choice.refused))


def planned_weights(spec: Spec, format: str) -> int:
    """How many weights (bias left out) a layer holds in the form the planner gives it.

    More than its factors where small ones are merged, or where the answer is "dense"; the most of
    the files that are planned differently.

    Raises:
        BadInput: A structure that the exporters do not know.
    """
    if spec.structure == DENSE:
        return spec.weight_params
    if spec.structure not in FAMILIES:
        raise unknown_name("structure", spec.structure, FAMILIES)
    forms = FAMILIES[spec.structure].forms(format)
    kinds = {"", *(kind for form in forms for kind in form.barred)}
    choices = {
        choose("", spec, forms, barred={f.name: f.barred.get(kind, "") for f in forms}).form
        for kind in kinds
    }
    return max(int(form.weights(spec)) for form in forms if form.name in choices)


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
