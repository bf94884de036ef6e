"""Averaged weights: exponential (EMA) or equal (SWA), with batch statistics computed anew.

An average of weights is another network; running statistics of batch normalisation that were
collected on the way do not belong to it, so they are recomputed by one pass over clean images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sepdeploy.data import Split
from sepdeploy.models import Model
from sepdeploy.training.checkpoint import State, copy_state

BATCH = 256


class Average:
    """A running average of a network's parameters.

    Args:
        model: Its network's parameters are averaged.
        decay: Of the exponential average, taken at every step; 0 = equal weights, taken once an
            epoch.
        start: Epochs that pass before the first weights are taken.
    """

    def __init__(self, model: Model, *, decay: float, start: int) -> None:
        self.model = model
        self.net = model.net
        self.decay = decay
        self.start = start
        self.count = 0
        self.weights: State = {}

    def after_step(self, epoch: int) -> None:
        """Take the weights of a step (EMA)."""
        if self.decay and epoch >= self.start:
            # the first steps count more, so that the start does not linger: (1 + n)/(10 + n)
            self._take(1 - min(self.decay, (1 + self.count) / (10 + self.count)))

    def after_epoch(self, epoch: int) -> None:
        """Take the weights of an epoch (SWA): w ← w n/(n+1) + new/(n+1)."""
        if not self.decay and epoch >= self.start:
            self._take(1 / (self.count + 1))

    def _take(self, share: float) -> None:
        with torch.no_grad():
            if not self.count:
                self.weights = {n: p.detach().clone() for n, p in self.net.named_parameters()}
            else:
                for name, parameter in self.net.named_parameters():
                    self.weights[name].lerp_(parameter.detach(), share)
        self.count += 1

    @contextmanager
    def applied(self, images: Split) -> Iterator[None]:
        """Put the average into the network, with fresh batch statistics; put all back after.

        Args:
            images: What the statistics are computed from.
        """
        before = copy_state(self.net.state_dict())
        try:
            self.net.load_state_dict({**before, **self.weights})
            recompute_statistics(self.model, images)
            yield
        finally:
            self.net.load_state_dict(before)

    def state(self) -> dict[str, Tensor | int]:
        """What a checkpoint keeps."""
        return {"count": self.count, **{f"w.{name}": w for name, w in self.weights.items()}}

    def restore(self, state: dict[str, Tensor | int]) -> None:
        """Continue from ``state``."""
        self.count = int(state["count"])
        self.weights = {k[2:]: v for k, v in state.items() if isinstance(v, Tensor)}


def recompute_statistics(net: nn.Module, images: Split) -> None:
    """Set the running statistics of batch normalisation to those of all images.

    ``net`` sees the images as they are given to it: pass a whole model to have them normalised.
    """
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    device = next(net.parameters()).device
    modes = {m: m.training for m in net.modules()}
    momenta = {m: m.momentum for m in norms}
    net.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
        norm.train()
    with torch.no_grad():
        # Every n-th image: folders are sorted by class, and the spread within one class is not
        # the spread of all images. The batches differ by one image at most.
        batches = max(1, len(images) // BATCH)
        for first in range(batches):
            net(torch.from_numpy(images.batch(slice(first, None, batches))).to(device))
    for module, training in modes.items():
        module.training = training
    for norm, momentum in momenta.items():
        norm.momentum = momentum
