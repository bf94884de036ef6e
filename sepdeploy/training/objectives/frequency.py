"""Frequency regularisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.training.objectives.batch import Batch, Terms
from sepdeploy.training.objectives.inner import adversarial

FREQUENCY_AXES: dict[str, tuple[int, ...]] = {"batch-class": (0, 1), "class": (1,)}


def frequency(model: nn.Module, batch: Batch, terms: Terms) -> Tensor:
    """CE(f(x'), y) + λ · |F(f(x) − f(x'))|: frequency regularisation, FR (Huang et al.).

    F is the Fourier transform of the difference of logits. Over ("batch-class") as in the paper's
    code it mixes the samples of a batch and grows with √N, so λ = 0.1 belongs to batches of 128;
    over "class" it is per sample, and about 1.1 matches that.
    """
    found = adversarial(model, batch, terms)
    attacked = model(found)
    loss = F.cross_entropy(attacked, batch.labels)
    if not terms.align_weight:
        return loss
    dims = FREQUENCY_AXES[terms.align_axes]
    return loss + terms.align_weight * spectral_distance(model(batch.images) - attacked, dims)


def spectral_distance(difference: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return the mean of (|Re| + |Im|)/2 over the Fourier transform of a difference."""
    with torch.autocast(device_type=difference.device.type, enabled=False):
        spectrum = torch.view_as_real(torch.fft.fftn(difference.float(), dim=dims))
        return spectrum.abs().mean()
