"""Measure exported files on this machine and on devices."""
