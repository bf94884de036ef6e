"""Accuracy of a model on a split, clean and under attack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sepdeploy import attacks
from sepdeploy.attacks.losses import right
from sepdeploy.data import Split
from sepdeploy.threat import Attack
from sepdeploy.training.machine.team import ALONE, Team
from sepdeploy.training.objectives.inner import evaluating
from sepdeploy.training.sources import take_batch

BATCH = 256


@dataclass(frozen=True)
class Accuracies:
    """Fractions of a split.

    Attributes:
        clean: Classified correctly.
        robust: Classified correctly as they are and under attack; None without an attack.
        no_gradient: How many images had a zero or infinite gradient and were searched without.
    """

    clean: float
    robust: float | None = None
    no_gradient: int = 0

    @property
    def score(self) -> tuple[float, float]:
        """What the best epoch maximises: robust, then clean accuracy."""
        return (self.clean if self.robust is None else self.robust, self.clean)

    def entry(self) -> dict[str, object]:
        """Return the fields of a history's line."""
        lacking = {"no_gradient": self.no_gradient} if self.no_gradient else {}
        return {"clean_accuracy": self.clean, "robust_accuracy": self.robust, **lacking}


@dataclass(frozen=True)
class Judged:
    """What an epoch is judged by: of the step's weights and their average, the better ones."""

    found: Accuracies
    raw: Accuracies | None = None
    average: Accuracies | None = None

    def entry(self) -> dict[str, object]:
        """Return the fields of a history's line."""
        both = {"raw": self.raw, "average": self.average}
        return self.found.entry() | {name: x.entry() for name, x in both.items() if x is not None}


def score(entry: Mapping[str, Any]) -> tuple[float, float]:
    """Return the score of a history's line."""
    return Accuracies(entry["clean_accuracy"], entry["robust_accuracy"]).score


def accuracies(
    model: nn.Module, split: Split, attack: Attack | None = None, *, team: Team = ALONE
) -> Accuracies:
    """Judge a model on a split.

    Args:
        model: Any mode; evaluated in evaluation mode and given back as it was.
        split: Images, labels and ids.
        attack: None, or a radius of 0, for the images as they are.
        team: Processes that share the work; each gets the result for the whole split.
    """
    device = next(model.parameters()).device
    counts = torch.zeros(3, dtype=torch.int64, device=device)
    attacked = attack is not None and attack.eps > 0
    with evaluating(model):
        for index in team.share(_batches(len(split), team.world)):
            batch = take_batch(split, index).to(device)
            with torch.no_grad():
                clean = right(model(batch.images), batch.labels)
            counts[0] += clean.sum()
            if attack is None or attack.eps == 0:
                continue
            made = attacks.make(model, batch.images, batch.labels, attack, ids=batch.ids)
            with torch.no_grad():
                counts[1] += (clean & right(model(made.images), batch.labels)).sum()
            if made.blind is not None:
                counts[2] += made.blind.sum()
    total = [int(n) for n in team.total(counts)]
    return Accuracies(total[0] / len(split), total[1] / len(split) if attacked else None, total[2])


def _batches(count: int, world: int) -> list[Tensor]:
    """Positions in a split, in batches small enough that every process gets some."""
    size = min(BATCH, -(-count // world))
    return list(torch.split(torch.arange(count), size))
