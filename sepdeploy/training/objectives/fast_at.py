"""Fast adversarial training: one attack step from a random start."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.training.objectives.batch import Batch, Terms
from sepdeploy.training.objectives.inner import adversarial


def fast_at(model: nn.Module, batch: Batch, terms: Terms) -> Tensor:
    """Cross entropy on the examples of one step; ``training/guard.py`` watches for its collapse."""
    return F.cross_entropy(model(one_step(model, batch, terms)), batch.labels)


def one_step(model: nn.Module, batch: Batch, terms: Terms) -> Tensor:
    """Return the examples of ``fast_at``."""
    return adversarial(model, batch, terms, "n-fgsm")
