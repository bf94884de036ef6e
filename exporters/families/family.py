"""What the exporters know about a structure family: one row of the table ``FAMILIES``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from onnx import ModelProto, NodeProto

from sepdeploy.exporters.families.emit import Emitter, Weight
from sepdeploy.exporters.tflite_file.format.graph import Array
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values.affine import Scaled
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item
from sepdeploy.exporters.tflite_file.values.layout import Value

B = TypeVar("B")
Shape = tuple[int, ...]
Attributes = Mapping[str, int | Sequence[int]]

OnnxBuilder = Callable[[Emitter, Any, str, Sequence[Weight], Weight], str]
"""(e, spec, x of shape (M, n_in), factors, bias) → the value of shape (M, n_out)."""

TfliteBuilder = Callable[[Context, Any, Value, Sequence[Array], Array], Value]
"""(ctx, spec, x of shape (…, n_in), factors, bias) → the value of shape (…, n_out)."""

Absorber = Callable[[Context, Node, Scaled, Inputs], list[Item | None] | None]
"""What ``passes.absorb.absorb`` does for the nodes of one operator."""

Merged = tuple[Any, Callable[[Emitter, Sequence[Weight]], list[Weight]]]
"""A structure with fewer factors that is the same map, and how its factors are made."""

QUANTIZED = "quantized"  # a key of ``Form.barred``, beside the runtimes of TFLite files


def never(spec: Any, *_: Any) -> str:
    """No reason to refuse anything."""
    return ""


def _as_it_is(spec: Any, *_: Any) -> Any:
    return spec


def _nothing(*_: Any) -> None:
    return None


def _by_form(form: str, spec: Any) -> str:
    return form


@dataclass(frozen=True)
class Form(Generic[B]):
    """One way to write a structured layer in a file format.

    Attributes:
        name: As it stands in the manifest and in node names.
        refuse: Why this form cannot be used for a layer, "" where it can.
        cost: Estimated time on one core; only the order of two forms matters.
        weights: How many weights the form holds, bias left out.
        build: Writes the layer; its type is the format's own.
        note: Why it was taken, for the manifest.
        barred: Files that cannot have this form although it is right, and why: by the name of the
            runtime of a TFLite file, or ``QUANTIZED``.
    """

    name: str
    refuse: Callable[[Any], str]
    cost: Callable[[Any], float]
    weights: Callable[[Any], int]
    build: B
    note: str = ""
    barred: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """One structure as an op of the domain ``ai.sepdeploy``, and how it is written in files.

    Attributes:
        structure: Its name in ``STRUCTURES``.
        op_type: Its op; the same name is its TFLite custom code. Inputs are x, the factors in the
            order of the spec's ``factor_shapes``, and the bias.
        doc: What the op computes, for the schema.
        read: The spec from a node's attributes and the shapes of its inputs behind x; raises
            ``ValueError`` or ``TypeError`` for what cannot be one.
        onnx: Forms in an .onnx file, the first one of two that cost the same is taken.
        tflite: Forms in a .tflite file; the first one is written where nobody plans.
        ints: Names of attributes that are lists.
        counts: Names of attributes that are numbers.
        attributes: The attributes of a spec's node.
        roles: The factors' names within the layer.
        derived: From a node's attributes, the names of inputs that training keeps as several
            parameters, by their place.
        absorb: Moves a scale and a shift of the input into the weights.
        merge: A layer with fewer and larger factors that the TFLite writer should get instead.
        refuse_fused: Why a layer keeps its standard form in the custom flavour: (spec, format).
        align: Makes a file's nodes of this op alike enough to share a function body.
        shared: (spec, all specs of the op in a file) → the example its function body is built by.
        variant: (form, spec) → name of a function body; bodies of one name are equal.
    """

    structure: str
    op_type: str
    doc: str
    read: Callable[[Mapping[str, Any], Sequence[Shape]], Any]
    onnx: tuple[Form[OnnxBuilder], ...]
    tflite: tuple[Form[TfliteBuilder], ...]
    roles: Callable[[Any], Sequence[str]]
    ints: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    attributes: Callable[[Any], Attributes] = lambda spec: {}
    derived: Callable[[Mapping[str, Any]], Mapping[int, str]] = lambda found: {}
    absorb: Absorber = _nothing
    merge: Callable[[Any], Merged | None] = _nothing
    refuse_fused: Callable[[Any, str], str] = never
    align: Callable[[ModelProto, Sequence[NodeProto]], None] = _nothing
    shared: Callable[[Any, Sequence[Any]], Any] = _as_it_is
    variant: Callable[[str, Any], str] = _by_form

    def forms(self, format: str) -> tuple[Form[Any], ...]:
        """Its forms in "onnx" or "tflite"."""
        found: tuple[Form[Any], ...] = getattr(self, format)
        return found
