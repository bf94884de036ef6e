"""Ways to a device, all with one interface (``base.Transport``)."""

from sepdeploy.devices.transports.adb import AdbTransport
from sepdeploy.devices.transports.base import Completed, Disconnected, Transport, command_line
from sepdeploy.devices.transports.local import LocalTransport
from sepdeploy.devices.transports.replay import Recorder, Replay
from sepdeploy.devices.transports.ssh import SshTransport

__all__ = [
    "AdbTransport",
    "Completed",
    "Disconnected",
    "LocalTransport",
    "Recorder",
    "Replay",
    "SshTransport",
    "Transport",
    "command_line",
]
