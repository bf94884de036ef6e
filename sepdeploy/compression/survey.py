"""What a plan starts from: the plain layers of a trained network, their costs and the budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from sepdeploy.compression.candidates import Candidate, dense_candidate
from sepdeploy.compression.places import Places, count_places
from sepdeploy.compression.request import parse_target
from sepdeploy.errors import BadInput, unknown_name
from sepdeploy.models import Model
from sepdeploy.models.computed_weights import with_plain_weights

MEASURES = ("params", "macs")
TIGHT = "loosen the target, name more layers with --layers '*', or choose another structure"


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
class Rival:
    """A plan that was tried: its structure, and how far its answers are from the network's.

    ``divergence`` is the mean Kullback-Leibler divergence of its class probabilities from those of
    the network, in nats, on the calibration images; None for a plan that cannot meet the budget.
    """

    structure: str
    divergence: float | None


@dataclass(frozen=True)
class Tried:
    """How a plan over all families was chosen.

    Attributes:
        samples: Calibration images.
        rivals: The plans that were compared, the chosen one first.
        gap: How far the chosen sum of single layers' divergences is at most above the least one,
            as a share of it.
    """

    samples: int
    rivals: tuple[Rival, ...]
    gap: float


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
    tried: Tried | None = None

    @property
    def changes(self) -> dict[str, str]:
        """Structure of each layer that does not stay dense."""
        return {x.name: x.structure for x in self.layers if x.structure != "dense"}


@dataclass(frozen=True)
class Survey:
    """The plain layers of a network, by name, and what a plan may cost.

    Attributes:
        model: With its weights written out.
        limit: Of the whole network; None where there is no budget.
        fixed: What the budget's measure counts outside of these layers.
    """

    model: Model
    measure: str
    modules: Mapping[str, nn.Module]
    places: Mapping[str, Places]
    dense: Mapping[str, Candidate]
    params: int
    macs: int
    limit: int | None
    fixed: int

    @property
    def head(self) -> str:
        """The classifier: the last linear layer, "" if there is none."""
        linear = [n for n, m in self.modules.items() if isinstance(m, nn.Linear)]
        return linear[-1] if linear else ""

    def cost(self, candidate: Candidate) -> int:
        """What the budget counts of one form."""
        return candidate.params if self.measure == "params" else candidate.macs

    @property
    def room(self) -> int | None:
        """What the layers may cost together; None where there is no budget."""
        return None if self.limit is None else self.limit - self.fixed

    def out_of_reach(self, least: int) -> BadInput:
        """The error for a budget below the cheapest forms of all layers."""
        return BadInput(
            f"no plan has at most {self.limit:,} {self.measure}; "
            f"the best reachable is {least + self.fixed:,}",
            hint=TIGHT,
        )

    def plan(self, chosen: Mapping[str, Candidate], why: Callable[[str], str]) -> CompressionPlan:
        """The plan that gives each layer a form; ``why`` says why one stays dense."""
        layers = []
        for name, form in chosen.items():
            dense = self.dense[name]
            reason = why(name) if form.structure == "dense" else ""
            error = math.sqrt(max(0.0, form.lost))
            costs = form.params, dense.params, form.macs, dense.macs
            layers.append(LayerPlan(name, form.structure, *costs, error, reason))
        params = self.params + sum(x.params - x.params_dense for x in layers)
        macs = self.macs + sum(x.macs - x.macs_dense for x in layers)
        return CompressionPlan(
            tuple(layers), self.measure, self.limit, params, self.params, macs, self.macs
        )


def survey(model: Model, target: str, measure: str) -> Survey:
    """Look at a network.

    Raises:
        BadInput: An unknown measure or a target that is no budget.
    """
    if measure not in MEASURES:
        raise unknown_name("budget", measure, MEASURES)
    model = with_plain_weights(model)
    records = {record.name: record for record in model.layer_records()}
    modules = {n or "net": m for n, m in model.net.named_modules() if _plain(m)}
    modules = {name: modules[name] for name in records if name in modules}
    params, macs = model.params, sum(r.macs for r in records.values())
    total = params if measure == "params" else macs
    budget, limit = parse_target(target), None
    if budget is not None:
        limit = math.floor(total / budget[1]) if budget[0] == "ratio" else int(budget[1])
    places = count_places(model, modules)
    dense = {n: dense_candidate(m, places[n]) for n, m in modules.items()}
    fixed = total - sum(c.params if measure == "params" else c.macs for c in dense.values())
    return Survey(model, measure, modules, places, dense, params, macs, limit, fixed)


def _plain(module: nn.Module) -> bool:
    return type(module) is nn.Linear or type(module) is nn.Conv2d
