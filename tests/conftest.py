"""Settings and fixtures for all tests."""

from exported_model import call, copy, exported
from hypothesis import HealthCheck, settings

__all__ = ["call", "copy", "exported"]

# How long one example takes, or takes to be drawn, says nothing on a machine that others use too.
settings.register_profile("sepdeploy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sepdeploy")
