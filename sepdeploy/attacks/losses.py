"""What attacks climb: losses of logits whose gradient neither vanishes nor depends on their scale.

The cross entropy's gradient carries the factor 1 − p_y, which rounds to zero once a network is
sure. Its direction does not: it is that of the soft margin below. Multiplying all logits by a
positive number changes no decision of a network and must change no attack on it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sepdeploy.errors import BadInput

Loss = Callable[[Tensor], Tensor]

SHARPNESS = 20.0  # logits are spread over so much; 20 was the strongest of 5, 10, 20, 40
SURE = 60.0  # margin beyond which the cross entropy of float32 has hardly a gradient left


def soft_margin(labels: Tensor) -> Loss:
    """Return the loss of adversarial accuracy: Σ_n log Σ_{j≠y} exp(z_j/T) − z_y/T.

    T is the sample's own spread of logits over ``SHARPNESS``, a constant of the gradient.
    """
    return lambda logits: _soft_margin(check_logits(logits, labels), labels).sum()


def cross_entropy(labels: Tensor) -> Loss:
    """Return the cross entropy, summed; of samples that it saturates for, the soft margin.

    Summed, not averaged: the gradient of one sample must not depend on the batch size.
    """

    def loss(logits: Tensor) -> Tensor:
        each = F.cross_entropy(check_logits(logits, labels), labels, reduction="none")
        sure = margin(logits.detach(), labels) < -SURE
        if not bool(sure.any()):
            return each.sum()
        return torch.where(sure, _soft_margin(logits, labels).to(each.dtype), each).sum()

    return loss


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (N,) how far the best wrong class is above the right one; ∞ for logits not finite.

    Above zero the network is fooled: such logits count as wrong wherever accuracy is taken.
    """
    own = F.one_hot(labels, check_logits(logits, labels).shape[1]).bool()
    found = (
        logits.masked_fill(own, -torch.inf).amax(dim=1) - logits.gather(1, labels[:, None])[:, 0]
    )
    return torch.where(logits.isfinite().all(dim=1), found, torch.inf)


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (N,) whether the label has the largest logit; never where one is not finite."""
    return (logits.argmax(dim=1) == labels) & logits.isfinite().all(dim=1)


def _soft_margin(logits: Tensor, labels: Tensor) -> Tensor:
    exact = logits.double()
    fixed = exact.detach()
    spread = (fixed.amax(dim=1) - fixed.amin(dim=1)) / SHARPNESS
    scaled = exact / torch.where(spread > 0, spread, 1.0)[:, None]
    own = F.one_hot(labels, logits.shape[1]).bool()
    return (
        scaled.masked_fill(own, -torch.inf).logsumexp(dim=1)
        - scaled.gather(1, labels[:, None])[:, 0]
    )


def check_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Return logits that can be attacked.

    Raises:
        BadInput: They are no (N, classes) with a wrong class to go to.
    """
    if logits.dim() != 2 or len(logits) != len(labels) or logits.shape[1] < 2:
        raise BadInput(
            f"cannot attack a model that gives {tuple(logits.shape)} for {len(labels)} images",
            hint="it must give logits (N, classes) of two classes or more",
        )
    return logits
