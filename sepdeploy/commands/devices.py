"""``sepdeploy devices list|show``."""

from __future__ import annotations

from typing import Annotated

import typer

from sepdeploy import console
from sepdeploy.commands.shell import JSON_FLAG


def list_devices(json: JSON_FLAG = False) -> None:
    """List the known devices."""
    from sepdeploy import devices
    from sepdeploy.codec import dump
    from sepdeploy.reports import terminal

    profiles = devices.load_profiles()
    if json:
        console.write(dump({"schema": "sepdeploy.devices/1", "devices": list(profiles.values())}))
    else:
        console.show(terminal.devices_table(profiles.values()))


def show_device(
    device: Annotated[str, typer.Argument(help="Device id.")], json: JSON_FLAG = False
) -> None:
    """Show one device profile."""
    from sepdeploy import devices
    from sepdeploy.codec import dump
    from sepdeploy.reports import terminal

    profile = devices.profile(device)
    if json:
        console.write(dump(profile))
    else:
        console.show(terminal.profile_table(profile))


def setup_device(
    device: Annotated[str, typer.Argument(help="Device id.")],
) -> None:
    """Fetch and build what emulating a device needs; says first what it will download."""
    from sepdeploy import api

    api.setup_device(device, notify=console.notice)
