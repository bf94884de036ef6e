"""Devices: what they are (profiles), how they are reached (transports), measured or emulated."""

from sepdeploy.devices.profile import (
    PROFILE_SCHEMA,
    DeviceProfile,
    load_profiles,
    parse_profile,
    profile,
)

__all__ = ["PROFILE_SCHEMA", "DeviceProfile", "load_profiles", "parse_profile", "profile"]
