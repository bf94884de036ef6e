"""Turning singular values into a ``Spectrum``."""

from __future__ import annotations

import math

from sepdeploy.structures.base import Array, Spectrum


def condition_number(sigma_max: float, sigma_min: float) -> float:
    """σ_max/σ_min; infinity where σ_min is 0, also for the zero operator."""
    return sigma_max / sigma_min if sigma_min > 0 else math.inf


def full_rank_spectrum(sigma: Array) -> Spectrum:
    """The spectrum given all singular values of the structural rank, largest first."""
    largest, smallest = float(sigma[0]), float(sigma[-1])
    return Spectrum(
        sigma_max=largest,
        sigma_min=smallest,
        condition_number=condition_number(largest, smallest),
        structural_rank=len(sigma),
        exact=True,
    )
