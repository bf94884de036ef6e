"""The bundle as a program that jobs on a device are given to."""

from __future__ import annotations

from sepdeploy.devices.bundle.build import Bundle
from sepdeploy.devices.measured import Launcher


def bundle_launcher(bundle: Bundle) -> Launcher:
    """Return how the compiled runner is sent to a device and started there."""
    folder = f"bundle-{bundle.key}"
    return Launcher(
        files={f"{folder}/{name}": bundle.folder / name for name in bundle.files},
        argv=tuple(bundle.command(folder)),
        runnable=frozenset({f"{folder}/{bundle.loader}", f"{folder}/runner"}),
        name="the compiled runner",
    )
