"""Choosing a form for every layer of a trained network under one budget.

Each layer offers forms with a cost and the energy they lose; the plan starts from the cheapest
form of every layer and buys energy back where it costs least, until the budget is used up. That
is the knapsack on the lower convex hull of each layer's forms, optimal up to one step. What is
maximised is the product of the shares that the layers keep: layers follow each other, so one that
keeps nothing cannot be made good by others that keep everything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from itertools import pairwise

from torch import nn

from sepdeploy.compression.candidates import Candidate, candidates, dense_candidate, is_open
from sepdeploy.compression.places import Places, count_places
from sepdeploy.compression.request import parse_target, structure_map
from sepdeploy.errors import BadInput, unknown_name
from sepdeploy.models import Model
from sepdeploy.models.computed_weights import with_plain_weights
from sepdeploy.structures import CONVOLUTIONS, STRUCTURES, split_structure, whole_network

MEASURES = ("params", "macs")
HEAD = "the classifier stays dense unless it is named"
TIGHT = "loosen the target, name more layers with --layers '*', or choose another structure"
NOT_ASKED = "not asked for"
NO_GAIN = "no form of it is smaller without computing more"
DEPTHWISE = "depthwise: every channel has a kernel of its own, there is nothing to share"
CHEAPER_DENSE = "the budget has room for it"


@dataclass(frozen=True)
class LayerPlan:
    """What becomes of one layer.

    Attributes:
        name: Path of the layer.
        structure: Form chosen, "dense" where the layer stays as it is.
        params: Numbers stored, bias included.
        params_dense: The same of the layer as it is.
        macs: Multiply-accumulates per sample.
        macs_dense: The same of the layer as it is.
        relative_error: ‖W − W'‖_F / ‖W‖_F expected; for convolutions a little too high.
        reason: Why it stays dense, "" where it does not.
    """

    name: str
    structure: str
    params: int
    params_dense: int
    macs: int
    macs_dense: int
    relative_error: float
    reason: str = ""


@dataclass(frozen=True)
class CompressionPlan:
    """A form for every plain layer, and what the whole network then costs."""

    layers: tuple[LayerPlan, ...]
    measure: str
    limit: int | None
    params: int
    params_before: int
    macs: int
    macs_before: int

    @property
    def changes(self) -> dict[str, str]:
        """Structure of each layer that does not stay dense."""
        return {x.name: x.structure for x in self.layers if x.structure != "dense"}


def plan_compression(
    model: Model,
    structure: str,
    target: str = "",
    *,
    measure: str = "params",
    layers: Sequence[str] = (),
) -> CompressionPlan:
    """Choose a form for every layer.

    Args:
        model: A trained network; layers that are structured already stay as they are.
        structure: "kron", "lowrank" or "debut" for all layers but the classifier, convolutions
            included ("tucker" and "pdp" are for these alone), an explicit form such as
            "lowrank:40", "all-debut" for every layer, or forms by layer name or pattern:
            "fc1=kron:28x28-64x64,fc*=lowrank".
        target: "10x" smaller, or a number of parameters (or MACs) of the whole network; needed
            wherever a form is left open.
        measure: "params" or "macs".
        layers: Names or patterns of the layers to change; () = all but the classifier.

    Raises:
        BadInput: A form that fits no layer, an unknown layer, a target that no plan reaches
            (says the best reachable).
    """
    if measure not in MEASURES:
        raise unknown_name("budget", measure, MEASURES)
    model = with_plain_weights(model)
    records = {record.name: record for record in model.layer_records()}
    modules = {n or "net": m for n, m in model.net.named_modules() if _plain(m)}
    modules = {name: modules[name] for name in records if name in modules}
    everywhere = whole_network(structure)
    if everywhere:
        structure, layers = everywhere, layers or ("*",)
    families = _families(modules, structure, layers)
    budget = parse_target(target)
    if budget is None and any(is_open(text) for text in families.values()):
        raise BadInput(
            f"structure '{structure}' leaves shapes or ranks open and there is no target",
            hint="give --target 10x, or write the form out: lowrank:40, kron:28x28-64x64",
        )
    params, macs = model.params, sum(r.macs for r in records.values())
    total = params if measure == "params" else macs
    limit = None
    if budget is not None:
        limit = math.floor(total / budget[1]) if budget[0] == "ratio" else int(budget[1])
    places = count_places(model, modules)
    named = bool(layers) or isinstance(structure_map(structure), dict)
    offer = partial(_offers, named=named, everywhere=bool(everywhere))
    offers = {n: offer(n, m, families.get(n), places[n]) for n, m in modules.items()}
    dense = {n: dense_candidate(m, places[n]) for n, m in modules.items()}
    fixed = total - sum(_cost(c, measure) for c in dense.values())
    chosen = _choose(offers, measure, None if limit is None else limit - fixed, fixed)
    plans = tuple(
        _layer_plan(n, chosen[n], dense[n], _why_dense(n, modules, families, offers[n]))
        for n in modules
    )
    return CompressionPlan(
        plans,
        measure,
        limit,
        params + sum(x.params - x.params_dense for x in plans),
        params,
        macs + sum(x.macs - x.macs_dense for x in plans),
        macs,
    )


def _plain(module: nn.Module) -> bool:
    return type(module) is nn.Linear or type(module) is nn.Conv2d


def _families(
    modules: dict[str, nn.Module], structure: str, layers: Sequence[str]
) -> dict[str, str]:
    """The structure text of each layer that is to be changed."""
    wanted = structure_map(structure)
    linear = [n for n, m in modules.items() if isinstance(m, nn.Linear)]
    head = linear[-1] if linear else ""
    if isinstance(wanted, dict):
        if layers:
            raise BadInput("layers are named twice", hint="leave --layers out")
        return {n: t for pattern, t in wanted.items() for n in _matching(modules, pattern)}
    names = [n for n in modules if n != head]
    if layers:
        names = [n for pattern in layers for n in _matching(modules, pattern)]
    else:
        family, options = split_structure(wanted)
        both = family in STRUCTURES and family in CONVOLUTIONS and not options
        if not both:  # a name that both kinds have means linear layers once its form is written
            convolutions = family in CONVOLUTIONS and family not in STRUCTURES
            names = [n for n in names if (n in linear) != convolutions]
    if not names:
        raise BadInput(
            f"the network has no layer besides its classifier that '{structure}' applies to",
            hint=f"convolutions take {', '.join(CONVOLUTIONS)}; or name layers with --layers",
        )
    return dict.fromkeys(names, wanted)


def _matching(modules: dict[str, nn.Module], pattern: str) -> list[str]:
    found = [name for name in modules if fnmatchcase(name, pattern)]
    if not found:
        raise unknown_name("layer", pattern[:60], modules)
    return found


def _offers(
    name: str,
    module: nn.Module,
    family: str | None,
    places: Places,
    *,
    named: bool,
    everywhere: bool,
) -> list[Candidate]:
    """All forms a layer may take; the dense one is among them unless another was written out.

    Nor is it where the network becomes one family ``everywhere`` and that has any form of it.

    A form that is written out for all layers is left out where it does not pay; one for layers that
    are ``named`` is what their owner wants.
    """
    dense = dense_candidate(module, places)
    if family is None or not isinstance(module, (nn.Linear, nn.Conv2d)):
        return [dense]
    if name == "net":
        raise BadInput(
            "a network that is a single layer cannot change its structure in place",
            hint="put it into an nn.Sequential and save it anew",
        )
    try:
        found = candidates(module, family, places, everywhere=everywhere)
    except BadInput as error:
        raise BadInput(f"layer '{name}': {error.message}", hint=error.hint) from error
    if not named:
        found = [c for c in found if c.params < dense.params or c.macs < dense.macs]
    kept = is_open(family) and not everywhere
    return [*found, dense] if kept or not found else found


def _cost(candidate: Candidate, measure: str) -> int:
    return candidate.params if measure == "params" else candidate.macs


def _choose(
    offers: dict[str, list[Candidate]], measure: str, limit: int | None, fixed: int
) -> dict[str, Candidate]:
    hulls = {name: _hull(forms, measure) for name, forms in offers.items()}
    at = dict.fromkeys(hulls, 0)
    spent = sum(_cost(hull[0], measure) for hull in hulls.values())
    if limit is None:
        return {name: hull[0] for name, hull in hulls.items()}
    if spent > limit:
        raise BadInput(
            f"no plan has at most {limit + fixed:,} {measure}; "
            f"the best reachable is {spent + fixed:,}",
            hint=TIGHT,
        )
    # Within one layer the hull's steps are ever less worthwhile, so buying the best step on
    # offer keeps the order.
    steps = [
        ((a.penalty - b.penalty) / max(1, _cost(b, measure) - _cost(a, measure)), name, k)
        for name, hull in hulls.items()
        for k, (a, b) in enumerate(pairwise(hull))
    ]
    blocked = set()
    for _, name, k in sorted(steps, key=lambda step: -step[0]):
        price = _cost(hulls[name][k + 1], measure) - _cost(hulls[name][k], measure)
        if name in blocked or spent + price > limit:
            blocked.add(name)
            continue
        at[name], spent = k + 1, spent + price
    chosen = {name: hull[at[name]] for name, hull in hulls.items()}
    return _fill(offers, chosen, measure, limit - spent)


def _fill(
    offers: dict[str, list[Candidate]], chosen: dict[str, Candidate], measure: str, room: int
) -> dict[str, Candidate]:
    """Use up the gap that is left with forms between the hull's points."""
    filled = {}
    for name, current in chosen.items():
        most = _cost(current, measure) + room
        best = min((c for c in offers[name] if _cost(c, measure) <= most), key=lambda c: c.lost)
        filled[name] = best if best.lost < current.lost else current
        room = most - _cost(filled[name], measure)
    return filled


def _hull(forms: list[Candidate], measure: str) -> list[Candidate]:
    """The lower convex hull of (cost, penalty), cheapest first."""
    hull: list[Candidate] = []
    for form in sorted(forms, key=lambda c: (_cost(c, measure), c.lost)):
        if hull and form.lost >= hull[-1].lost:
            continue
        while len(hull) > 1 and _above(hull[-2], hull[-1], form, measure):
            hull.pop()
        hull.append(form)
    return hull


def _above(a: Candidate, b: Candidate, c: Candidate, measure: str) -> bool:
    """Whether b lies on or above the line from a to c."""
    ab, ac = (_cost(x, measure) - _cost(a, measure) for x in (b, c))
    return (a.penalty - b.penalty) * ac <= (a.penalty - c.penalty) * ab


def _why_dense(
    name: str, modules: dict[str, nn.Module], families: dict[str, str], offers: list[Candidate]
) -> str:
    if name not in families:
        linear = [n for n, m in modules.items() if isinstance(m, nn.Linear)]
        return HEAD if linear[-1:] == [name] else NOT_ASKED
    if len(offers) > 1:
        return CHEAPER_DENSE
    module = modules[name]
    depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
    return DEPTHWISE if depthwise else NO_GAIN


def _layer_plan(name: str, chosen: Candidate, dense: Candidate, reason: str) -> LayerPlan:
    return LayerPlan(
        name,
        chosen.structure,
        chosen.params,
        dense.params,
        chosen.macs,
        dense.macs,
        math.sqrt(max(0.0, chosen.lost)),
        reason if chosen.structure == "dense" else "",
    )
