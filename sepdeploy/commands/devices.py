"""``sepdeploy devices list|show``."""

from __future__ import annotations

from typing import Annotated

import typer

from sepdeploy import console
from sepdeploy.commands.shell import JSON, give


def list_devices(json: JSON = None) -> None:
    """List the known devices."""
    from sepdeploy import devices
    from sepdeploy.reports import terminal

    profiles = devices.load_profiles()
    document = {"schema": "sepdeploy.devices/1", "devices": list(profiles.values())}
    give(document, json, lambda: terminal.devices_table(profiles.values()))


def show_device(
    device: Annotated[str, typer.Argument(help="Device id.")], json: JSON = None
) -> None:
    """Show one device profile."""
    from sepdeploy import devices
    from sepdeploy.codec import to_json
    from sepdeploy.reports import terminal

    profile = devices.profile(device)
    document = to_json(profile) | {"schema": devices.PROFILE_SCHEMA}
    give(document, json, lambda: terminal.profile_table(profile))


def setup_device(
    device: Annotated[str, typer.Argument(help="Device id.")],
) -> None:
    """Fetch and build what emulating a device needs; says first what it will download."""
    from sepdeploy import api

    api.setup_device(device, notify=console.notice)
