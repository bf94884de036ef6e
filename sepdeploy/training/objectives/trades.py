"""TRADES."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.training.objectives.batch import Batch, Terms
from sepdeploy.training.objectives.inner import adversarial, divergence


def trades(model: nn.Module, batch: Batch, terms: Terms) -> Tensor:
    """CE(f(x), y) + β · (1/N) Σ KL(p(x) ‖ p(x')), x' maximising the divergence (Zhang et al.).

    The gradient flows through both arguments of the divergence.
    """
    found = adversarial(model, batch, terms, "kl")
    logits = model(batch.images)
    loss = F.cross_entropy(logits, batch.labels)
    robust = divergence(model(found), logits.softmax(dim=1)) / len(batch.labels)
    return loss + terms.trades_beta * robust
