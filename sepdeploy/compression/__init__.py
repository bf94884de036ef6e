"""Compressing trained networks: which layers, which factors, and the projection onto them."""

from __future__ import annotations

from sepdeploy.compression.planning import CompressionPlan, LayerPlan, plan_compression
from sepdeploy.compression.projecting import compress_model, factorize_convolutions

__all__ = [
    "CompressionPlan",
    "LayerPlan",
    "compress_model",
    "factorize_convolutions",
    "plan_compression",
]
