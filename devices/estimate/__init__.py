"""Latencies that nobody measured: cost models, their interval, and anchors that narrow it."""

from sepdeploy.devices.estimate.anchors import Anchor, fitting, load_anchors, save_anchor
from sepdeploy.devices.estimate.cycles import CycleEstimate, Work, estimable, time_of, work
from sepdeploy.devices.estimate.executed import parse_blocks
from sepdeploy.devices.estimate.op import DTYPES, KINDS, Op
from sepdeploy.devices.estimate.predict import Estimate, LayerEstimate, estimate

__all__ = [
    "DTYPES",
    "KINDS",
    "Anchor",
    "CycleEstimate",
    "Estimate",
    "LayerEstimate",
    "Op",
    "Work",
    "estimable",
    "estimate",
    "fitting",
    "load_anchors",
    "parse_blocks",
    "save_anchor",
    "time_of",
    "work",
]
