"""Settings and fixtures for all tests."""

from exported_model import call, copy, exported
from hypothesis import settings

__all__ = ["call", "copy", "exported"]

# How long one example takes says nothing on a machine that others use as well.
settings.register_profile("sepdeploy", deadline=None)
settings.load_profile("sepdeploy")
