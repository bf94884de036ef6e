"""Device profiles: packaged TOML files, checked key by key.

A profile says what a device is; how it is reached and what is measured on it is decided by the
caller. Unknown keys and wrong types are refused with file and key.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from sepdeploy.errors import BadInput, unknown_name
from sepdeploy.records import from_json

PROFILE_SCHEMA = 1


@dataclass(frozen=True)
class DeviceProfile:
    """One device that ``--device`` can name.

    ``os`` is "linux", "android" or "any"; ``abi`` the machine name as ``uname -m`` prints it.
    """

    schema: int
    id: str
    name: str
    os: str
    abi: str
    note: str = ""


def parse_profile(text: str, *, where: str) -> DeviceProfile:
    """Parse one TOML profile.

    Raises:
        BadInput: Not TOML, an unknown or missing key, or a wrong type, naming key and file.
    """
    try:
        data: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{where} is not valid TOML: {error}") from error
    known = [f.name for f in fields(DeviceProfile)]
    for key in data:
        if key not in known:
            raise unknown_name(f"key in {where}", key, known)
    profile = from_json(DeviceProfile, data, where=where)
    if profile.schema != PROFILE_SCHEMA:
        raise BadInput(f"{where}: schema {profile.schema}, expected {PROFILE_SCHEMA}")
    return profile


def load_profiles() -> dict[str, DeviceProfile]:
    """Return the packaged profiles by id, in the order of their ids.

    Raises:
        BadInput: A packaged file is broken or repeats an id.
    """
    found: dict[str, DeviceProfile] = {}
    folder = resources.files("sepdeploy.devices") / "profiles"
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if Path(entry.name).suffix != ".toml":
            continue
        profile = parse_profile(entry.read_text(encoding="utf-8"), where=entry.name)
        if profile.id in found:
            raise BadInput(f"{entry.name} repeats the device id '{profile.id}'")
        found[profile.id] = profile
    return found


def profile(device: str) -> DeviceProfile:
    """Return the profile of one device id.

    Raises:
        BadInput: No such device; the closest ids are named.
    """
    profiles = load_profiles()
    if device not in profiles:
        raise unknown_name("device", device, profiles, hint="sepdeploy devices list")
    return profiles[device]
