"""Measurements of an artifact, each made in its runtime, and their statistics."""

from sepdeploy.measure.child import run_job, run_logits
from sepdeploy.measure.parity import check_parity

__all__ = ["check_parity", "run_job", "run_logits"]
