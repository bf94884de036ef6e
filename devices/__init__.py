"""Devices: what they are (profiles) and, later, how they are reached (transports)."""

from sepdeploy.devices.profile import DeviceProfile, load_profiles, parse_profile, profile

__all__ = ["DeviceProfile", "load_profiles", "parse_profile", "profile"]
