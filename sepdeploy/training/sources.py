"""What a training learns from and is judged by: batches, the held-out split, the score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sepdeploy.attacks.draws import derive_seed
from sepdeploy.data import Split
from sepdeploy.threat import Attack
from sepdeploy.training.objectives.batch import Batch
from sepdeploy.training.recipe.fields import Recipe

# Independent streams of random numbers, all derived from the recipe's seed.
ORDER, NOISE, VALIDATION_NOISE, AUGMENTATION, DROPOUT = 1, 2, 3, 4, 5
MIN_STEPS = 5  # one-step training can fool a one-step validation (catastrophic overfitting)


@dataclass(frozen=True)
class Sources:
    """The images of a training: what is learned from, and what chooses the best epoch."""

    train: Split
    validation: Split


def take_batch(split: Split, index: Tensor) -> Batch:
    """Return the samples at ``index`` as tensors."""
    at = index.numpy()
    return Batch(
        torch.from_numpy(split.batch(at)),
        torch.from_numpy(split.labels[at]),
        torch.from_numpy(split.ids[at]),
    )


def validation_attack(recipe: Recipe) -> Attack:
    """Return the attack that validation uses: APGD-CE of the training's steps, at least five.

    It adapts its steps and drops what has fallen, so it is stronger than PGD of as many steps and
    takes no longer. Its starts are the same in every epoch, so that epochs are compared on equal
    terms.
    """
    return Attack(
        f"apgd-ce-{max(recipe.steps, MIN_STEPS)}",
        recipe.eps if recipe.robust else 0.0,
        recipe.norm,
        seed=derive_seed(recipe.seed, VALIDATION_NOISE),
    )
