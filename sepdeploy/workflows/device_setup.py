"""``devices setup``: what measuring or emulating a device, or kernels of this machine, need."""

from __future__ import annotations

from sepdeploy.devices import DeviceProfile, profile
from sepdeploy.devices.bundle import ABIS, build_bundle, bundle_plan
from sepdeploy.devices.emulation import can_emulate, setup_device
from sepdeploy.errors import ArtifactCheckFailed, BadInput
from sepdeploy.records import Notify

HOST = "host"


def set_up(device: str, *, notify: Notify) -> None:
    """Set a device up; see ``sepdeploy.api.setup_device``."""
    known = profile(device)
    if known.id == HOST:
        _set_up_host(notify)
        return
    if can_emulate(known):
        setup_device(known, say=notify)
        notify(f"{known.id} can be emulated now: sepdeploy bench FILE --device {known.id}")
        return
    abi = _abi(known)
    downloads, size = bundle_plan(abi)
    if downloads:
        notify(f"downloads {', '.join(downloads)}: {size / 1e6:.0f} MB")
    build_bundle(abi, say=notify)
    notify(f"the runner for {known.id} is built: sepdeploy bench FILE --device {known.id}")


def _set_up_host(notify: Notify) -> None:
    """Build the native kernels of this machine, unless they are there."""
    from sepdeploy.runtimes import native

    status = native.build_native(say=notify)
    if status.state != "ready":
        raise ArtifactCheckFailed(
            f"the native kernels cannot be used: {status.why}",
            hint="remove the cache folder that it names and run it again",
        )
    where = ", ".join(f"{name} {version}" for name, version in status.runtimes.items())
    notify(f"native kernels are ready for {where or 'no installed runtime'}: {status.path}")
    notify("files of the custom flavour run in them: sepdeploy export model.pt --flavour custom")


def _abi(known: DeviceProfile) -> str:
    """Return the ABI of a device that cannot be emulated; Android emulators run the host's."""
    abi = "x86_64" if known.os == "android" and known.abi == "any" else known.abi
    if abi not in ABIS:
        raise BadInput(
            f"there is nothing to set up for {known.id}: no runner is built for '{abi}'",
            hint="sepdeploy devices list",
        )
    return abi
