"""From a device profile and the user's options to an open transport."""

from __future__ import annotations

import shutil
from pathlib import Path

from sepdeploy.cache import cache_folder
from sepdeploy.devices.profile import DeviceProfile
from sepdeploy.devices.transports import adb as adb_transport
from sepdeploy.devices.transports import ssh as ssh_transport
from sepdeploy.devices.transports.adb import AdbTransport
from sepdeploy.devices.transports.base import Transport
from sepdeploy.devices.transports.local import LocalTransport
from sepdeploy.devices.transports.ssh import SshTransport
from sepdeploy.errors import Missing

ANDROID_EMULATOR = "android-emulator"


def is_addressed(
    profile: DeviceProfile, *, host: str = "", serial: str = "", adb: str = "adb"
) -> bool:
    """Whether the user said how to reach a device, or one that fits is attached to adb.

    False means: no connection is expected, so weaker kinds of numbers are what can be had. True
    does not mean that it answers; a device that should answer and does not is an error.

    Args:
        profile: The device.
        host: USER@HOST of the command line.
        serial: The adb serial of the command line.
        adb: The client program.

    Raises:
        Missing: adb's server does not start.
    """
    settings = profile.transport
    if settings.kind == "ssh":
        return bool(host or settings.host)
    if settings.kind == "local":
        return True
    if serial or settings.serial:
        return True
    if shutil.which(adb) is None:
        return False
    wanted = profile.id == ANDROID_EMULATOR
    return any(device.emulator == wanted for device in adb_transport.attached(adb))


def connect(
    profile: DeviceProfile, *, host: str = "", serial: str = "", adb: str = "adb"
) -> Transport:
    """Open the way to a device; the caller closes it.

    Args:
        profile: The device.
        host: USER@HOST; "" takes the profile's.
        serial: The adb serial; "" takes the profile's, or the only device that fits.
        adb: The client program.

    Raises:
        BadInput: The address is not one, or several devices are attached.
        Missing: No address, no client program, or no device.
    """
    settings = profile.transport
    if settings.kind == "local":
        return LocalTransport(cache_folder() / "device")
    if settings.kind == "adb":
        chosen = adb_transport.choose(
            serial or settings.serial or None,
            emulator=None if serial or settings.serial else profile.id == ANDROID_EMULATOR,
            adb=adb,
        )
        workdir = settings.workdir or adb_transport.WORKDIR
        return AdbTransport(chosen.serial, workdir=workdir, adb=adb)
    address = host or settings.host
    if not address:
        raise Missing(
            f"device {profile.id}: no address to reach it",
            hint="give one: --host pi@raspberrypi.local, or transport.host in its profile",
        )
    config = Path(settings.ssh_config).expanduser() if settings.ssh_config else None
    return SshTransport(
        address,
        port=settings.port or None,
        config=config,
        workdir=settings.workdir or ssh_transport.WORKDIR,
    )
