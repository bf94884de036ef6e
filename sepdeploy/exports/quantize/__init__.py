"""Quantised files of an export: which scales, calibrated on what, and which layers stay float."""
