"""Ways to a device, all with one interface (``base.Transport``)."""

from sepdeploy.devices.transports.base import Completed, Disconnected, Transport, command_line

__all__ = ["Completed", "Disconnected", "Transport", "command_line"]
