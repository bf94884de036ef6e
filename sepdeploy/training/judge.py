"""Accuracy of a model on a split, clean and under attack."""

from __future__ import annotations

import torch
from torch import nn

from sepdeploy.attacks.gradient import Budget, pgd
from sepdeploy.data import Split
from sepdeploy.training.objectives import evaluating

BATCH = 256
MIN_STEPS = 5  # one-step training can fool a one-step validation (catastrophic overfitting)


def accuracy(model: nn.Module, split: Split, attack: Budget | None = None) -> float:
    """Return the fraction of a split that the model classifies correctly.

    Args:
        model: Any mode; evaluated in evaluation mode and given back as it was.
        split: Images, labels and ids.
        attack: PGD budget, or None for the images as they are.
    """
    right = 0
    with evaluating(model):
        for start in range(0, len(split), BATCH):
            part = slice(start, start + BATCH)
            images = torch.from_numpy(split.batch(part))
            labels = torch.from_numpy(split.labels[part])
            if attack is not None and attack.eps > 0:
                ids = torch.from_numpy(split.ids[part])
                images = pgd(model, images, labels, ids, attack)
            with torch.no_grad():
                right += int((model(images).argmax(dim=1) == labels).sum())
    return right / len(split)
