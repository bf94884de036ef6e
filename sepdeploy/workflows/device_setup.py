"""``devices setup``: what emulating a device needs, fetched and built once."""

from __future__ import annotations

from sepdeploy.devices import profile
from sepdeploy.devices.emulation import setup_device
from sepdeploy.workflows.evaluation import Notify


def set_up(device: str, *, notify: Notify) -> None:
    """Set the emulation of a device up; see ``sepdeploy.api.setup_device``."""
    setup_device(profile(device), say=notify)
    notify(f"{device} can be emulated now: sepdeploy bench FILE --device {device}")
