"""Training on the images as they are."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.training.objectives.batch import Batch, Terms


def natural(model: nn.Module, batch: Batch, terms: Terms) -> Tensor:
    """Cross entropy on the images as they are."""
    return F.cross_entropy(model(batch.images), batch.labels)
