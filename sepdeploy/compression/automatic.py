"""One plan over all families: each layer's forms are judged by what they do to the answers.

The relative error of a weight says little of what it costs: a layer can lose half of its energy
unnoticed, another none. So the forms that are worth a look, of every family, are put into the
network one at a time, and the divergence of its answers on calibration images is what a knapsack
adds up. Layers do not simply add up: the plans of every single family and of the energies over
all of them are compared as whole networks, and from the best of them on, the same is measured
around the plan at hand as long as it helps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.compression.candidates import Candidate, candidates
from sepdeploy.compression.knapsack import solve
from sepdeploy.compression.planning import (
    CHEAPER_DENSE,
    HEAD,
    NOT_ASKED,
    choose,
    matching,
    no_form,
)
from sepdeploy.compression.projecting import nearest_layer
from sepdeploy.compression.survey import CompressionPlan, Rival, Survey, Tried, survey
from sepdeploy.errors import BadInput
from sepdeploy.layers import CONVOLUTION_LAYERS, LAYERS
from sepdeploy.models import Model
from sepdeploy.models.factory import replace_module
from sepdeploy.structures import split_structure
from sepdeploy.structures.base import Array

AUTOMATIC = "auto"
RUNGS = 8  # forms per layer that are tried in the network
ROUNDS = 4  # around the plan at hand
BATCH = 64

Forms = dict[str, Candidate]
Offers = dict[str, list[Candidate]]
Losses = dict[tuple[str, str], float]  # by layer and structure


def plan_automatically(
    model: Model,
    target: str,
    images: Array,
    *,
    measure: str = "params",
    layers: Sequence[str] = (),
) -> CompressionPlan:
    """Choose among the forms of all families for every layer.

    Args:
        model: A trained network; layers that are structured already stay as they are.
        target: "10x" smaller, or a number of parameters (or MACs) of the whole network.
        images: float32 (N, *input shape), calibration images.
        measure: "params" or "macs".
        layers: Names or patterns of the layers to change; () = all but the classifier.

    Raises:
        BadInput: No target, an unknown layer, a target that no plan reaches (says the best
            reachable).
    """
    seen = survey(model, target, measure)
    if seen.limit is None:
        raise BadInput(
            f"structure '{AUTOMATIC}' has to know how small", hint="give --target 4x, or a number"
        )
    names = [n for n in seen.modules if n != seen.head]
    if layers:
        names = [n for pattern in layers for n in matching(seen.modules, pattern)]
    offers = {n: _all_forms(n, seen) if n in names else [seen.dense[n]] for n in seen.modules}
    trial = _Trial(seen.model, torch.from_numpy(images))

    def why(name: str) -> str:
        if name not in names:
            return HEAD if name == seen.head else NOT_ASKED
        return CHEAPER_DENSE if len(offers[name]) > 1 else no_form(seen.modules[name])

    found = {"energies": choose(offers, seen)}
    families = _families(seen, names)
    for family in families:
        own = {n: _of_family(forms, family, seen.dense[n]) for n, forms in offers.items()}
        with suppress(BadInput):  # it cannot be as small
            found[family] = choose(own, seen)
    divergence = {name: trial.whole(chosen) for name, chosen in found.items()}
    start = min(divergence, key=divergence.__getitem__)
    best, gap = _improved(found[start], _ladders(offers, seen), trial, seen)
    rivals = (
        Rival(AUTOMATIC, trial.whole(best)),
        *(Rival(name, divergence.get(name)) for name in ("energies", *families)),
    )
    return replace(seen.plan(best, why), tried=Tried(len(images), rivals, gap))


def _improved(best: Forms, ladders: Offers, trial: _Trial, seen: Survey) -> tuple[Forms, float]:
    """Measure every layer's forms around a plan and choose anew, while that helps."""
    least, gap = trial.whole(best), 0.0
    for _ in range(ROUNDS):
        rows = {n: sorted({*ladders[n], best[n]}, key=seen.cost) for n in ladders}
        losses = trial.around(best, rows)
        wide = _by_sums(rows, losses, seen)
        near = _by_sums({n: _near(rows[n], best[n]) for n in rows}, losses, seen)
        tried = [(trial.whole(chosen), chosen, own) for chosen, own in (wide, near)]
        divergence, chosen, own = min(tried, key=lambda t: t[0])
        if divergence >= least:
            break
        best, least, gap = chosen, divergence, own
    return best, gap


def _near(row: Sequence[Candidate], form: Candidate) -> list[Candidate]:
    """A form and its neighbours."""
    at = row.index(form)
    return list(row[max(0, at - 1) : at + 2])


def _families(seen: Survey, names: Sequence[str]) -> list[str]:
    """The names of all families that apply to some of the layers, each family once."""
    linear = any(isinstance(seen.modules[n], nn.Linear) for n in names)
    convolution = any(isinstance(seen.modules[n], nn.Conv2d) for n in names)
    known = {row: name for name, row in reversed(CONVOLUTION_LAYERS.items())} if convolution else {}
    return [*dict.fromkeys([*(LAYERS if linear else ()), *sorted(known.values())])]


def _all_forms(name: str, seen: Survey) -> list[Candidate]:
    layer = seen.modules[name]
    if name == "net" or not isinstance(layer, (nn.Linear, nn.Conv2d)):
        return [seen.dense[name]]
    found = [
        form
        for family in _families(seen, [name])
        for form in candidates(layer, family, seen.places[name])
    ]
    return [*found, seen.dense[name]]


def _of_family(forms: Sequence[Candidate], family: str, dense: Candidate) -> list[Candidate]:
    return [c for c in forms if c is dense or split_structure(c.structure)[0] == family]


def _ladders(offers: Offers, seen: Survey) -> Offers:
    """Of each layer the forms that no cheaper one beats in energy, spread over their costs."""
    ladders = {}
    for name, forms in offers.items():
        front: list[Candidate] = []
        for form in sorted(forms, key=lambda c: (seen.cost(c), c.lost)):
            if not front or form.lost < front[-1].lost:
                front.append(form)
        costs = [max(1, seen.cost(c)) for c in front]
        wanted = np.geomspace(costs[0], costs[-1], RUNGS)
        nearest = {int(np.abs(np.subtract(costs, cost)).argmin()) for cost in wanted}
        ladders[name] = [front[k] for k in sorted(nearest)]
    return ladders


def _by_sums(ladders: Offers, losses: Losses, seen: Survey) -> tuple[Forms, float]:
    """The plan with the least sum of divergences, and its gap.

    The plan at hand is among the choices, so there is one.
    """
    rows = [[(seen.cost(c), losses[n, c.structure]) for c in forms] for n, forms in ladders.items()]
    found = solve(rows, seen.room or 0)
    if found is None:  # costs are rounded up to units, which can miss a budget by a hair
        return {n: min(forms, key=seen.cost) for n, forms in ladders.items()}, 0.0
    chosen = zip(ladders.items(), found[0], strict=True)
    return {name: forms[k] for (name, forms), k in chosen}, found[1]


class _Trial:
    """The network's answers on calibration images, and how far those of others are from them."""

    def __init__(self, model: Model, images: Tensor) -> None:
        self.model, self.images = model, images
        self.net = deepcopy(model.net).eval()
        self.own = self._answers(self.net)
        if not self.own.isfinite().all():
            raise BadInput(
                "the network's own answers to calibration images are not finite",
                hint="train it again, or name a family instead of 'auto'",
            )
        self.layers: dict[tuple[str, str], nn.Module] = {}

    @torch.no_grad()
    def _answers(self, net: nn.Module) -> Tensor:
        return torch.cat(
            [F.log_softmax(net(part), dim=1) for part in torch.split(self.images, BATCH)]
        )

    def divergence(self, net: nn.Module) -> float:
        """Mean Kullback-Leibler divergence of the class probabilities, in nats.

        Infinite for answers that are not finite.
        """
        other = self._answers(net)
        found = F.kl_div(other, self.own, reduction="batchmean", log_target=True).clamp_min(0)
        return float(found) if found.isfinite() else math.inf

    def _put(self, name: str, form: Candidate) -> None:
        """Put a layer into a form, which is projected once."""
        key = name, form.structure
        if key not in self.layers:
            plain = self.model.net.get_submodule(name)
            dense = form.structure == "dense"
            self.layers[key] = plain if dense else nearest_layer(plain, form.structure).eval()
        replace_module(self.net, name, self.layers[key])

    def whole(self, chosen: Forms) -> float:
        """Of the network with a whole plan put into effect."""
        for name, form in chosen.items():
            if name != "net":
                self._put(name, form)
        return self.divergence(self.net)

    def around(self, chosen: Forms, rows: Offers) -> Losses:
        """Of a plan with one layer at a time in each of its forms."""
        own = self.whole(chosen)
        found: Losses = {}
        for name, forms in rows.items():
            for form in forms:
                if form != chosen[name]:
                    self._put(name, form)
                    found[name, form.structure] = self.divergence(self.net)
                else:
                    found[name, form.structure] = own
            if len(forms) > 1:
                self._put(name, chosen[name])
        return found
