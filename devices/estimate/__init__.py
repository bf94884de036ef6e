"""Latencies that nobody measured: a cost model, its interval, and anchors that narrow it."""

from sepdeploy.devices.estimate.anchors import Anchor, fitting, load_anchors, save_anchor
from sepdeploy.devices.estimate.op import DTYPES, KINDS, Op
from sepdeploy.devices.estimate.predict import Estimate, LayerEstimate, estimate

__all__ = [
    "DTYPES",
    "KINDS",
    "Anchor",
    "Estimate",
    "LayerEstimate",
    "Op",
    "estimate",
    "fitting",
    "load_anchors",
    "save_anchor",
]
