"""Penalties on weights, and the spectra they act on."""
