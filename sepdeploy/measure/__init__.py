"""Measurements of an artifact, each made in its runtime, and their statistics."""

from sepdeploy.measure.accuracy import images_digest
from sepdeploy.measure.calibration import collect_ranges
from sepdeploy.measure.child import run_job, run_logits, run_outputs
from sepdeploy.measure.host import host_facts
from sepdeploy.measure.latency import Timing, compare_latency, time_models
from sepdeploy.measure.memory import measure_memory
from sepdeploy.measure.noise import measure_noise
from sepdeploy.measure.proof.parity import check_evaluator, check_outputs, check_parity, moves
from sepdeploy.measure.proof.residency import check_residency, measure_resident
from sepdeploy.measure.proof.ways import has_bodies

__all__ = [
    "Timing",
    "check_evaluator",
    "check_outputs",
    "check_parity",
    "check_residency",
    "collect_ranges",
    "compare_latency",
    "has_bodies",
    "host_facts",
    "images_digest",
    "measure_memory",
    "measure_noise",
    "measure_resident",
    "moves",
    "run_job",
    "run_logits",
    "run_outputs",
    "time_models",
]
