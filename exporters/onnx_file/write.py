"""Canonical graph → .onnx file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto, checker

from sepdeploy.errors import REPORT, BadInput, unknown_name
from sepdeploy.exporters.domain import (
    DOMAIN,
    constant_shapes,
    ensure_domain,
    node_spec,
)
from sepdeploy.exporters.families import FAMILIES
from sepdeploy.exporters.families.emit import Emitter, Weight
from sepdeploy.exporters.families.family import OnnxBuilder
from sepdeploy.exporters.formats import FLAVOURS
from sepdeploy.exporters.onnx_file.bodies import with_bodies
from sepdeploy.exporters.onnx_file.disk import write_model
from sepdeploy.exporters.onnx_graph.canonical import clean
from sepdeploy.exporters.onnx_graph.graph import (
    float_bytes,
    initializers,
    read_names,
    set_initializers,
    set_nodes,
    tensor_bytes,
    to_array,
)
from sepdeploy.exporters.onnx_graph.weights import as_inputs, detach, from_inputs, is_held
from sepdeploy.exporters.plan import FUSED
from sepdeploy.records import LoweringChoice

ENTRY_KEY = "sepdeploy"
SIMPLIFY_LIMIT = 200 * 10**6  # bytes of weights above which simplifying costs more than it gives


def write_onnx(
    canonical: ModelProto,
    path: Path,
    *,
    choices: Sequence[LoweringChoice],
    entry: str | None = None,
    flavour: str = "standard",
    simplify: bool = True,
) -> None:
    """Write a canonical graph as an ONNX file, atomically.

    Above the 2 GB that one protobuf can hold, large constants go to ``PATH.data`` beside it.

    Args:
        canonical: The graph, with its weights; it is not changed.
        path: Target.
        choices: One per structured layer (``plan(canonical, "onnx")``).
        entry: The embedded entry (``entry.make_entry``), None for none.
        flavour: "standard": every structured layer in its chosen form, standard ops only.
            "custom": the nodes that the planner hands to the fused op stay, each with a function
            body in the file; the others as in the standard flavour.
        simplify: Let onnxsim look at a standard graph, where it is installed.

    Raises:
        BadInput: Unknown flavour, a layer without a choice, an invalid graph, or a folder that
            cannot be written.
    """
    if flavour not in FLAVOURS:
        raise unknown_name("flavour", flavour, FLAVOURS)
    light, weights = _light(canonical)
    model = _written(light, choices, flavour)
    _check(model, path)
    if flavour == "standard" and simplify and (simpler := simplified(model)) is not model:
        _check(simpler, path)
        model = simpler
    if entry is not None:
        model.metadata_props.add(key=ENTRY_KEY, value=entry)
    write_model(model, weights, path)


def _written(canonical: ModelProto, choices: Sequence[LoweringChoice], flavour: str) -> ModelProto:
    if flavour == "standard":
        return lower(canonical, choices)
    kept = frozenset(c.layer for c in choices if c.form == FUSED)
    return with_bodies(lower(canonical, choices, kept), choices)


def lower(
    canonical: ModelProto, choices: Sequence[LoweringChoice], kept: Collection[str] = ()
) -> ModelProto:
    """The graph with every structured node, but the kept ones, written out in its chosen form.

    Node names start with "<layer>/<form>/".
    """
    model, weights = _light(canonical)
    _lower(model, choices, kept)
    for item in model.graph.initializer:
        if item.name in weights:
            item.CopyFrom(weights[item.name])
    return model


def _light(canonical: ModelProto) -> tuple[ModelProto, dict[str, TensorProto]]:
    """The graph without the weights of its dense layers, which nothing here looks at."""
    factors = {name for n in canonical.graph.node if n.domain == DOMAIN for name in n.input}
    return detach(canonical, frozenset(factors))


def _lower(model: ModelProto, choices: Sequence[LoweringChoice], kept: Collection[str]) -> None:
    builders = _builders([c for c in choices if c.layer not in kept])
    shapes, known = constant_shapes(model), initializers(model.graph)
    plain = [n for n in model.graph.node if n.domain != DOMAIN or n.name in kept]
    shared = {i for n in plain for i in read_names(n)}
    taken = {name: tensor for name, tensor in known.items() if name in shared}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.domain != DOMAIN or node.name in kept:
            nodes.append(node)
            continue
        form, build = _form_of(node, builders)
        emitter = Emitter(f"{node.name}/{form}")
        factors = [Weight.known(n, to_array(known[n])) for n in node.input[1:]]
        build(emitter, node_spec(node, shapes), node.input[0], factors[:-1], factors[-1])
        emitter.nodes[-1].output[0] = node.output[0]
        nodes.extend(emitter.nodes)
        _add_constants(emitter, taken)
    set_nodes(model.graph, nodes)
    set_initializers(model.graph, taken.values())
    ensure_domain(model)
    clean(model)
    del model.graph.value_info[:]


def _add_constants(emitter: Emitter, taken: dict[str, TensorProto]) -> None:
    """Add a lowered layer's constants; one whose name another one has gets the layer's prefix."""
    for name, tensor in list(emitter.constants.items()):
        clash = taken.get(name)
        if clash is not None and clash == tensor:
            continue
        if clash is not None:
            tensor.name = f"{emitter.prefix}/{name}"
            for node in emitter.nodes:
                for i, read in enumerate(node.input):
                    node.input[i] = tensor.name if read == name else read
        taken[tensor.name] = tensor


def _builders(choices: Sequence[LoweringChoice]) -> dict[str, tuple[str, OnnxBuilder]]:
    found = {}
    for choice in choices:
        if choice.structure not in FAMILIES:
            raise unknown_name("structure", choice.structure, FAMILIES)
        forms = {f.name: f.build for f in FAMILIES[choice.structure].onnx}
        if choice.form not in forms:
            raise unknown_name("lowering form", choice.form, forms)
        found[choice.layer] = (choice.form, forms[choice.form])
    return found


def _form_of(
    node: NodeProto, builders: dict[str, tuple[str, OnnxBuilder]]
) -> tuple[str, OnnxBuilder]:
    if node.name not in builders:
        raise BadInput(
            f"layer '{node.name}' has no lowering form and could not run anywhere",
            hint="plan the same graph that is written",
        )
    return builders[node.name]


def simplified(model: ModelProto) -> ModelProto:
    """The graph after onnxsim, or the graph itself where that is absent, too costly or no gain.

    A result that folded factors together, dropped a function or lost a layer's node names is
    not taken.
    """
    if sum(tensor_bytes(t) for t in model.graph.initializer) > SIMPLIFY_LIMIT:
        return model
    try:
        import onnxsim
    except ImportError:
        return model
    light, weights = detach(model)
    candidate: ModelProto
    try:
        candidate, valid = onnxsim.simplify(as_inputs(light))
    except RuntimeError:  # the graph is valid; a simplifier that cannot read it is not needed
        return model
    from_inputs(candidate, light)
    keeps = (
        valid
        and _functions(candidate) == _functions(model)
        and float_bytes(candidate.graph) <= float_bytes(model.graph)
        and _layers(candidate) == _layers(model)
        and len(candidate.graph.node) < len(model.graph.node)
    )
    if not keeps:
        return model
    for item in candidate.graph.initializer:
        if is_held(item) and item.name in weights:
            item.CopyFrom(weights[item.name])
    return candidate


def _functions(model: ModelProto) -> Counter[tuple[str, str, str]]:
    return Counter((f.domain, f.name, f.overload) for f in model.functions)


def _layers(model: ModelProto) -> set[str]:
    return {n.name.rpartition("/")[0] for n in model.graph.node}


def _check(model: ModelProto, path: Path) -> None:
    light, _ = detach(model)
    try:
        checker.check_model(as_inputs(light), full_check=True)
    except (checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        line = str(error).strip().splitlines()[0]
        raise BadInput(
            f"the graph for {path.name} is not valid ONNX: {line}", hint=REPORT
        ) from error
