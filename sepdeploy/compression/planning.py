"""Choosing a form for every layer of a trained network under one budget.

Each layer offers forms with a cost and the energy they lose; the plan starts from the cheapest
form of every layer and buys energy back where it costs least, until the budget is used up. That
is the knapsack on the lower convex hull of each layer's forms, optimal up to one step. What is
maximised is the product of the shares that the layers keep: layers follow each other, so one that
keeps nothing cannot be made good by others that keep everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from itertools import pairwise

from torch import nn

from sepdeploy.compression.candidates import Candidate, candidates, dense_candidate, is_open
from sepdeploy.compression.places import Places
from sepdeploy.compression.request import structure_map
from sepdeploy.compression.survey import CompressionPlan, Survey, survey
from sepdeploy.errors import BadInput, unknown_name
from sepdeploy.models import Model
from sepdeploy.structures import CONVOLUTIONS, STRUCTURES, split_structure, whole_network

HEAD = "the classifier stays dense unless it is named"
NOT_ASKED = "not asked for"
NO_GAIN = "no form of it is smaller without computing more"
DEPTHWISE = "depthwise: every channel has a kernel of its own, there is nothing to share"
CHEAPER_DENSE = "the budget has room for it"


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
    everywhere = whole_network(structure)
    if everywhere:
        structure, layers = everywhere, layers or ("*",)
    seen = survey(model, target, measure)
    families = _families(seen, structure, layers)
    if seen.limit is None and any(is_open(text) for text in families.values()):
        raise BadInput(
            f"structure '{structure}' leaves shapes or ranks open and there is no target",
            hint="give --target 10x, or write the form out: lowrank:40, kron:28x28-64x64",
        )
    named = bool(layers) or isinstance(structure_map(structure), dict)
    offer = partial(_offers, named=named, everywhere=bool(everywhere))
    offers = {n: offer(n, m, families.get(n), seen.places[n]) for n, m in seen.modules.items()}
    chosen = choose(offers, seen)
    return seen.plan(chosen, lambda name: _why_dense(name, seen, families, offers[name]))


def _families(seen: Survey, structure: str, layers: Sequence[str]) -> dict[str, str]:
    """The structure text of each layer that is to be changed."""
    wanted, modules = structure_map(structure), seen.modules
    if isinstance(wanted, dict):
        if layers:
            raise BadInput("layers are named twice", hint="leave --layers out")
        return {n: t for pattern, t in wanted.items() for n in matching(modules, pattern)}
    names = [n for n in modules if n != seen.head]
    if layers:
        names = [n for pattern in layers for n in matching(modules, pattern)]
    else:
        family, options = split_structure(wanted)
        both = family in STRUCTURES and family in CONVOLUTIONS and not options
        if not both:  # a name that both kinds have means linear layers once its form is written
            convolutions = family in CONVOLUTIONS and family not in STRUCTURES
            names = [n for n in names if isinstance(modules[n], nn.Conv2d) == convolutions]
    if not names:
        raise BadInput(
            f"the network has no layer besides its classifier that '{structure}' applies to",
            hint=f"convolutions take {', '.join(CONVOLUTIONS)}; or name layers with --layers",
        )
    return dict.fromkeys(names, wanted)


def matching(modules: Mapping[str, nn.Module], pattern: str) -> list[str]:
    """The names that a pattern means.

    Raises:
        BadInput: There are none.
    """
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


def choose(offers: dict[str, list[Candidate]], seen: Survey) -> dict[str, Candidate]:
    """The forms that keep most energy within the budget.

    Raises:
        BadInput: The cheapest forms are above it.
    """
    hulls = {name: _hull(forms, seen) for name, forms in offers.items()}
    at = dict.fromkeys(hulls, 0)
    spent = sum(seen.cost(hull[0]) for hull in hulls.values())
    room = seen.room
    if room is None:
        return {name: hull[0] for name, hull in hulls.items()}
    if spent > room:
        raise seen.out_of_reach(spent)
    # Within one layer the hull's steps are ever less worthwhile, so buying the best step on
    # offer keeps the order.
    steps = [
        ((a.penalty - b.penalty) / max(1, seen.cost(b) - seen.cost(a)), name, k)
        for name, hull in hulls.items()
        for k, (a, b) in enumerate(pairwise(hull))
    ]
    blocked = set()
    for _, name, k in sorted(steps, key=lambda step: -step[0]):
        price = seen.cost(hulls[name][k + 1]) - seen.cost(hulls[name][k])
        if name in blocked or spent + price > room:
            blocked.add(name)
            continue
        at[name], spent = k + 1, spent + price
    chosen = {name: hull[at[name]] for name, hull in hulls.items()}
    return _fill(offers, chosen, seen, room - spent)


def _fill(
    offers: dict[str, list[Candidate]], chosen: dict[str, Candidate], seen: Survey, room: int
) -> dict[str, Candidate]:
    """Use up the gap that is left with forms between the hull's points."""
    filled = {}
    for name, current in chosen.items():
        most = seen.cost(current) + room
        best = min((c for c in offers[name] if seen.cost(c) <= most), key=lambda c: c.lost)
        filled[name] = best if best.lost < current.lost else current
        room = most - seen.cost(filled[name])
    return filled


def _hull(forms: list[Candidate], seen: Survey) -> list[Candidate]:
    """The lower convex hull of (cost, penalty), cheapest first."""
    hull: list[Candidate] = []
    for form in sorted(forms, key=lambda c: (seen.cost(c), c.lost)):
        if hull and form.lost >= hull[-1].lost:
            continue
        while len(hull) > 1 and _above(hull[-2], hull[-1], form, seen):
            hull.pop()
        hull.append(form)
    return hull


def _above(a: Candidate, b: Candidate, c: Candidate, seen: Survey) -> bool:
    """Whether b lies on or above the line from a to c."""
    ab, ac = (seen.cost(x) - seen.cost(a) for x in (b, c))
    return (a.penalty - b.penalty) * ac <= (a.penalty - c.penalty) * ab


def _why_dense(name: str, seen: Survey, families: dict[str, str], offers: list[Candidate]) -> str:
    if name not in families:
        return HEAD if seen.head == name else NOT_ASKED
    return CHEAPER_DENSE if len(offers) > 1 else no_form(seen.modules[name])


def no_form(module: nn.Module) -> str:
    """Why a layer has no smaller form."""
    depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
    return DEPTHWISE if depthwise else NO_GAIN
