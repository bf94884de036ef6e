"""Settings and fixtures for all tests."""

from exported_model import call, copy, exported
from hypothesis import HealthCheck, settings

__all__ = ["call", "copy", "exported"]

# How long one example takes, or takes to be drawn, says nothing on a machine that others use too.
settings.register_profile(
    "sepdeploy", deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow]
)
# What `make slow` takes: the same properties on more examples.
settings.register_profile("thorough", settings.get_profile("sepdeploy"), max_examples=100)
settings.load_profile("sepdeploy")
