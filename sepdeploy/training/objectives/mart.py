"""MART."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.training.objectives.batch import Batch, Terms
from sepdeploy.training.objectives.inner import adversarial


def mart(model: nn.Module, batch: Batch, terms: Terms) -> Tensor:
    """BCE(x') + β · (1/N) Σ KL(p(x) ‖ p(x')) · (1 − p_y(x)) (Wang et al.).

    BCE is the cross entropy of x' plus a margin against the likeliest wrong class; the divergence
    counts most where the clean image is classified wrongly.
    """
    found = adversarial(model, batch, terms)
    logits, labels = model(batch.images), batch.labels
    attacked = model(found)
    own = F.one_hot(labels, logits.shape[1]).bool()
    wrong = attacked.softmax(dim=1).masked_fill(own, 0).amax(dim=1)
    boosted = F.cross_entropy(attacked, labels) - torch.log(1.0001 - wrong).mean()
    clean = logits.softmax(dim=1)
    each = F.kl_div(attacked.log_softmax(dim=1), clean, reduction="none").sum(dim=1)
    robust = (each * (1.0000001 - clean[own])).mean()
    total: Tensor = boosted + terms.mart_beta * robust
    return total
