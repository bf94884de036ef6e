"""Trainings behind the numbers of ``docs/results.md``, run as ``python -m experiments.NAME``."""
