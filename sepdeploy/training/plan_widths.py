"""Choosing hidden widths and ranks so that a network fills a parameter budget.

Width is the lever of Kronecker layers: their parameters grow with the square root of the dense
layer's, and under one budget wider layers were more robust than more terms. Wide first and narrow
last was better than one width for all on MNIST (on the digits it was not): the classifier eats the
budget, and what it needs is narrow. So the sides of the layers fall evenly, the last one to half of
the first, or to 1/2.5 where that leaves less of the budget unspent; their biases are sums over the
modes, which cost nothing beside the factors. What stops width before the budget does is time, so
the linear layers of a planned network also stay below half the multiply-accumulates of the dense
ones. The classifier stays dense although it eats most of a tight budget: wide layers under a
factored one were no better, and worse with one term; it is only planned where nothing else fits.
The numbers stand in docs/training.md (`python -m experiments.plans`).

Low-rank layers have two levers. Widths and ranks grow together up to the architecture's own
widths, then the ranks alone: a wide net of rank one is no better than a narrow one.

``conv_rank`` is no lever: convolutions are counted with the ranks that the recipe gives them.
"""

from __future__ import annotations

import inspect
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from sepdeploy.compression import factorize_convolutions
from sepdeploy.compression.request import parse_target, structure_map
from sepdeploy.errors import BadInput
from sepdeploy.models import create
from sepdeploy.models.checkpoint import linear_specs
from sepdeploy.models.factory import find_factory, is_foreign
from sepdeploy.records import InputSpec
from sepdeploy.structures import STRUCTURES, family_of, split_structure
from sepdeploy.training.recipe.fields import Recipe

# Multiples of 8 are what vector units like, but small budgets need a finer choice.
MODES = (*range(2, 32, 2), *range(32, 64, 4), *range(64, 513, 8))
LAST_SIDES = (*range(1, 32), *MODES[MODES.index(32) :])
TAPER = (2.0, 2.5)  # first side over last: at least, and at most
WIDTHS = (*range(2, 32, 2), *range(32, 4097, 8))
MAX_RANK = 4096
MACS_SHARE = 0.5  # of the dense network's multiply-accumulates
WIDTH_PER_RANK = 24
FAMILY = "kron"  # planned where a budget is given and no structure

StructureMap = str | dict[str, str]
Widths = tuple[int, ...]


@dataclass(frozen=True)
class NetworkPlan:
    """What to pass to ``models.create``.

    Attributes:
        structure: One structure, or one per layer.
        hidden: Widths, () = the architecture's own.
        message: What was planned, one line; "" where nothing was.
        params: Parameters as deployed, 0 where they were not counted.
    """

    structure: StructureMap
    hidden: Widths = ()
    message: str = ""
    params: int = 0

    @property
    def options(self) -> dict[str, Widths]:
        """Options of the architecture."""
        return {"hidden": self.hidden} if self.hidden else {}


@dataclass(frozen=True)
class _Candidate:
    structure: StructureMap
    hidden: Widths
    params: int
    macs: int  # of linear layers
    linear: int  # layers, the classifier among them


_Lever = tuple[StructureMap, Widths]
_Counter = Callable[[StructureMap, Widths], _Candidate]


def plan_network(
    recipe: Recipe, input: InputSpec, classes: int, widths: Widths = ()
) -> NetworkPlan:
    """Return the network a recipe asks for, planned into its budget where it has one.

    Args:
        recipe: What is asked for.
        input: What one sample looks like.
        classes: Number of logits.
        widths: Of the dense network that budgets compare with; () = the architecture's own.

    Raises:
        BadInput: A budget that no candidate reaches (says the smallest one), an impossible
            structure, or one that leaves ranks open without a budget.
    """
    budget = parse_target(recipe.target)
    if budget is not None and is_foreign(recipe.arch):
        raise BadInput(
            f"target = '{recipe.target}' cannot be planned for '{recipe.arch}'",
            hint="give structure and hidden yourself",
        )
    structure = structure_map(recipe.structure or (FAMILY if budget else "dense"))
    hidden = recipe.hidden
    if not hidden and _default_widths(recipe.arch):  # only networks that have such an option
        hidden = _written_widths(structure)
    if budget is None:
        _check_written_out(structure)
        return NetworkPlan(structure, hidden)
    dense = _counter(recipe, input, classes, conv_rank=0)("dense", widths)
    kind, value = budget
    limit = math.floor(dense.params / value) if kind == "ratio" else int(value)
    if dense.linear < 2 and (not recipe.structure or _open_rank(recipe.structure)):
        if not recipe.conv_rank:
            raise BadInput(
                f"{recipe.arch} has no linear layer besides its classifier to plan",
                hint="conv_rank (--conv-rank 8) gives its convolutions low-rank forms",
            )
        structure = "dense"  # its convolutions alone have to be small enough
    search = _Search(_counter(recipe, input, classes, conv_rank=recipe.conv_rank), limit, dense)
    chosen = _chosen(recipe, structure, hidden, search)
    ratio = dense.params / chosen.params
    message = (
        f"planned {_describe(chosen.structure)}"
        + (f", hidden {list(chosen.hidden)}" if chosen.hidden else "")
        + (f", conv_rank {recipe.conv_rank}" if recipe.conv_rank else "")
        + f": {chosen.params:,} parameters, {ratio:.1f}x fewer than dense {dense.params:,}"
    )
    return NetworkPlan(chosen.structure, chosen.hidden, message, chosen.params)


@dataclass(frozen=True)
class _Search:
    """What a candidate is held against."""

    count: _Counter
    limit: int
    dense: _Candidate

    def largest(self, levers: Sequence[_Lever]) -> _Candidate:
        """Return the largest candidate that is small and fast enough, by bisection.

        Args:
            levers: In ascending size; the first is taken however slow it is.

        Raises:
            _TooLarge: Even the first has too many parameters.
        """
        smallest = self.count(*levers[0])
        if smallest.params > self.limit:
            raise _TooLarge(smallest.params)
        first_refused = bisect_left(levers, True, lo=1, key=self._too_much)
        return self.count(*levers[first_refused - 1])

    def _too_much(self, lever: _Lever) -> bool:
        try:
            candidate = self.count(*lever)
        except BadInput:
            return True  # the rank exceeds a layer's dimensions
        macs = MACS_SHARE * self.dense.macs
        return candidate.params > self.limit or candidate.macs > macs


class _TooLarge(Exception):
    """The smallest candidate is larger than the budget."""

    def __init__(self, params: int) -> None:
        super().__init__(params)
        self.params = params


def _chosen(recipe: Recipe, structure: StructureMap, hidden: Widths, search: _Search) -> _Candidate:
    """Return the largest candidate, with a factored classifier only where nothing else fits."""
    arch = recipe.arch
    try:
        return _planned(arch, structure, hidden, search)
    except _TooLarge as error:
        smallest = error.params
    open_text = structure if isinstance(structure, str) else ""
    head = family_of(open_text).planned_head if open_text.isalnum() else ""
    if head:
        try:
            return _planned(arch, {"*": open_text, "head": head}, hidden, search)
        except _TooLarge as error:
            smallest = min(smallest, error.params)
    raise BadInput(
        f"no plan has at most {search.limit:,} parameters; the smallest reachable is {smallest:,} "
        f"({search.dense.params / smallest:.1f}x)",
        hint="loosen the target, "
        + ("lower conv_rank, " if recipe.conv_rank else "")
        + "or choose another structure",
    )


def _planned(arch: str, structure: StructureMap, hidden: Widths, search: _Search) -> _Candidate:
    default = _default_widths(arch)
    texts = _texts(structure)
    written_out = any(re.search(r":\d", text) for text in texts)
    open_widths = bool(default) and not hidden and not written_out
    squares = any(family_of(text).takes_modes for text in texts)
    open_rank = any(_open_rank(text) for text in texts)
    if open_widths and squares and not open_rank:
        return _tapered(_with_planned_forms(structure), len(default), search)
    widths = list(_widths(default, squares=squares)) if open_widths else []
    if not open_rank:
        return search.largest([(structure, w) for w in widths] or [(structure, hidden)])
    narrower = [w for w in widths if max(w) < max(default)]
    if open_widths:
        balanced = [(_with_rank(structure, _rank(w)), w) for w in [*narrower, default]]
        hidden = search.largest(balanced).hidden
    ranks = range(1, MAX_RANK + 1)
    return search.largest([(_with_rank(structure, rank), hidden) for rank in ranks])


def _tapered(structure: StructureMap, layers: int, search: _Search) -> _Candidate:
    """Return the largest tapered candidate: its last side as large as the first allows, then it."""
    least, most = TAPER
    sides = [(round(least * last), last) for last in LAST_SIDES]
    found = search.largest([(structure, _falling(*pair, layers)) for pair in sides])
    first, last = next(pair for pair in sides if _falling(*pair, layers) == found.hidden)
    firsts = [first, *(side for side in MODES if first < side <= most * last)]
    return search.largest([(structure, _falling(side, last, layers)) for side in firsts])


def _falling(first: int, last: int, layers: int) -> Widths:
    """Widths that are squares, their sides in even ratios from the first one to the last."""
    steps = max(1, layers - 1)
    return tuple(round(first * (last / first) ** (k / steps)) ** 2 for k in range(layers))


def _with_planned_forms(structure: StructureMap) -> StructureMap:
    """The forms that families are planned in, where no more than their names was asked for."""
    if isinstance(structure, str):
        family = STRUCTURES.get(structure)
        return (family.planned if family else "") or structure
    return {name: str(_with_planned_forms(text)) for name, text in structure.items()}


def _rank(widths: Widths) -> int:
    return max(1, round(max(widths) / WIDTH_PER_RANK))


def _widths(default: Widths, *, squares: bool) -> Iterator[Widths]:
    """Yield hidden widths in the proportions of the default ones.

    For layers with modes the widths are squares, so that both modes are equal.
    """
    largest = max(default)
    if squares:
        for mode in MODES:
            sides = (max(2, round(mode * math.sqrt(w / largest))) for w in default)
            yield tuple(side * side for side in sides)
    else:
        for width in WIDTHS:
            yield tuple(max(2, round(width * w / largest)) for w in default)


def _counter(recipe: Recipe, input: InputSpec, classes: int, *, conv_rank: int) -> _Counter:
    def count(structure: StructureMap, hidden: Widths) -> _Candidate:
        options = NetworkPlan(structure, hidden).options
        with torch.device("meta"):  # shapes only: nothing is allocated or drawn
            model = create(recipe.arch, input, classes, structure=structure, **options)
        if conv_rank:
            factorize_convolutions(model.net, conv_rank)
        specs = linear_specs(model.net).values()
        macs = sum(spec.macs for spec in specs)
        return _Candidate(structure, hidden, model.params, macs, len(specs))

    return count


def _check_written_out(structure: StructureMap) -> None:
    for text in _texts(structure):
        if _open_rank(text):
            raise BadInput(
                f"structure '{text}' leaves its rank open and there is no target",
                hint=f"write the rank out, as in {text}:40, or give a target: --target 10x",
            )


def _open_rank(text: str) -> bool:
    """Whether a structure string leaves a rank open for the planner to fill in."""
    name, _ = split_structure(text)
    return name == text and name in STRUCTURES and STRUCTURES[name].open_rank


def _default_widths(arch: str) -> Widths:
    parameter = inspect.signature(find_factory(arch)).parameters.get("hidden")
    if parameter is None or not isinstance(parameter.default, tuple):
        return ()
    return parameter.default


def _written_widths(structure: StructureMap) -> Widths:
    """Return the widths that explicit shapes of fc1, fc2, … spell out, () unless all do."""
    if isinstance(structure, str):
        return ()
    layers = [structure.get(f"fc{k}", "dense") for k in range(1, len(structure) + 1)]
    widths = [family_of(text).written_width(split_structure(text)[1]) for text in layers]
    return tuple(widths) if all(widths) else ()


def _with_rank(structure: StructureMap, rank: int) -> StructureMap:
    if isinstance(structure, str):
        return f"{structure}:{rank}" if _open_rank(structure) else structure
    return {name: str(_with_rank(text, rank)) for name, text in structure.items()}


def _texts(structure: StructureMap) -> list[str]:
    return [structure] if isinstance(structure, str) else list(structure.values())


def _describe(structure: str | Mapping[str, str]) -> str:
    if isinstance(structure, str):
        return structure
    return ", ".join(f"{name}={text}" for name, text in structure.items())
