"""Adversarial training."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.training.objectives.batch import Batch, Terms
from sepdeploy.training.objectives.inner import adversarial


def pgd_at(model: nn.Module, batch: Batch, terms: Terms) -> Tensor:
    """Cross entropy on PGD examples: min over weights of the max over the ball (Madry et al.)."""
    return F.cross_entropy(model(adversarial(model, batch, terms)), batch.labels)
