"""Accuracy of a model on a split, clean and under attack."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sepdeploy.attacks.gradient import pgd
from sepdeploy.data import Split
from sepdeploy.threat import Attack
from sepdeploy.training.machine.team import ALONE, Team
from sepdeploy.training.objectives.inner import evaluating
from sepdeploy.training.sources import take_batch

BATCH = 256


def accuracy(
    model: nn.Module, split: Split, attack: Attack | None = None, *, team: Team = ALONE
) -> float:
    """Return the fraction of a split that the model classifies correctly.

    Args:
        model: Any mode; evaluated in evaluation mode and given back as it was.
        split: Images, labels and ids.
        attack: PGD, or None for the images as they are.
        team: Processes that share the work; each gets the result for the whole split.
    """
    device = next(model.parameters()).device
    right = torch.zeros((), dtype=torch.int64, device=device)
    with evaluating(model):
        for index in team.share(_batches(len(split), team.world)):
            batch = take_batch(split, index).to(device)
            images = batch.images
            if attack is not None and attack.eps > 0:
                images = pgd(model, images, batch.labels, batch.ids, attack)
            with torch.no_grad():
                right += (model(images).argmax(dim=1) == batch.labels).sum()
    return int(team.total(right)) / len(split)


def _batches(count: int, world: int) -> list[Tensor]:
    """Positions in a split, in batches small enough that every process gets some."""
    size = min(BATCH, -(-count // world))
    return list(torch.split(torch.arange(count), size))
