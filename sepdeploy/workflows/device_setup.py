"""``devices setup``: what measuring or emulating a device needs, fetched and built once."""

from __future__ import annotations

from sepdeploy.devices import DeviceProfile, profile
from sepdeploy.devices.bundle import ABIS, build_bundle, bundle_plan
from sepdeploy.devices.emulation import can_emulate, setup_device
from sepdeploy.errors import BadInput
from sepdeploy.workflows.evaluation import Notify


def set_up(device: str, *, notify: Notify) -> None:
    """Set a device up; see ``sepdeploy.api.setup_device``."""
    known = profile(device)
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


def _abi(known: DeviceProfile) -> str:
    """Return the ABI of a device that cannot be emulated; Android emulators run the host's."""
    abi = "x86_64" if known.os == "android" and known.abi == "any" else known.abi
    if abi not in ABIS:
        raise BadInput(
            f"there is nothing to set up for {known.id}: no runner is built for '{abi}'",
            hint="sepdeploy devices list",
        )
    return abi
