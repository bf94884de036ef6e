"""What an objective is given: a batch of images, and the weights of its terms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sepdeploy.threat import Attack


@dataclass(frozen=True)
class Terms:
    """The inner attack of an objective, and the weights of its terms.

    The attack's seed changes every epoch; together with a sample's id it fixes that sample's
    noise. ``inner`` is a key of ``INNER``, "" = the objective's own attack. ``align_weight`` is 0
    until the alignment terms set in.
    """

    attack: Attack
    trades_beta: float = 6.0
    mart_beta: float = 5.0
    inner: str = ""
    align_weight: float = 0.1
    align_axes: str = "batch-class"
    align_on: str = "logits"


@dataclass(frozen=True)
class Batch:
    """Images (N, C, H, W) in [0, 1], labels (N,) and sample ids (N,)."""

    images: Tensor
    labels: Tensor
    ids: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device; from page-locked memory the copy runs on its own."""
        tensors = (self.images, self.labels, self.ids)
        return Batch(*(t.to(device, non_blocking=t.is_pinned()) for t in tensors))

    def pinned(self) -> Batch:
        """Return the batch in page-locked memory, from where a GPU can fetch it by itself."""
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.ids.pin_memory())
