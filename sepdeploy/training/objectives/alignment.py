"""Spectral alignment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.errors import BadInput
from sepdeploy.training.objectives.batch import Batch, Terms
from sepdeploy.training.objectives.frequency import spectral_distance
from sepdeploy.training.objectives.inner import adversarial


def alignment(model: nn.Module, batch: Batch, terms: Terms) -> Tensor:
    """CE(f(x'), y) + λ · |F(g(x) − g(x'))|: spectral alignment, SAR, in our reading.

    The paper says that the spectra of clean and attacked outputs are aligned, not by which
    constant nor on which output: λ (``align_weight``) must be chosen, and g is the logits with
    the transform over classes, or the last feature map with the transform over its two spatial
    axes. Each sample stays by itself.
    """
    found = adversarial(model, batch, terms)
    with _last_map(model) as seen:
        attacked = model(found)
        loss = F.cross_entropy(attacked, batch.labels)
        if not terms.align_weight:
            return loss
        if terms.align_on == "logits":
            distance = spectral_distance(model(batch.images) - attacked, (1,))
        else:
            there = seen()
            model(batch.images)
            distance = spectral_distance(seen() - there, (2, 3))
    return loss + terms.align_weight * distance


@contextmanager
def _last_map(model: nn.Module) -> Iterator[Callable[[], Tensor]]:
    """Watch a model; the function gives the last feature map (N, C, H, W) of the latest pass."""
    maps: list[Tensor] = []

    def watch(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == 4:
            maps[:] = [output]

    def last() -> Tensor:
        if not maps:
            raise BadInput(
                "align_on = 'features' and the network has no feature map (N, C, H, W)",
                hint='align_on = "logits"',
            )
        return maps[0]

    hooks = [module.register_forward_hook(watch) for module in model.modules()]
    try:
        yield last
    finally:
        for hook in hooks:
            hook.remove()
