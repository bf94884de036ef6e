"""Compressing trained networks: which layers, which factors, and the projection onto them."""

from __future__ import annotations

from sepdeploy.compression.automatic import plan_automatically
from sepdeploy.compression.planning import plan_compression
from sepdeploy.compression.projecting import compress_model, factorize_convolutions
from sepdeploy.compression.survey import CompressionPlan, LayerPlan, Tried

__all__ = [
    "CompressionPlan",
    "LayerPlan",
    "Tried",
    "compress_model",
    "factorize_convolutions",
    "plan_automatically",
    "plan_compression",
]
