"""The compiled runner in a folder that carries its own program loader, C library and runtimes.

Nothing is needed on the target: the bundle's loader starts the runner with the bundle's libraries.
One bundle per ABI, built here from pinned wheels, distribution packages and our own C source.
"""

from sepdeploy.devices.bundle.build import Bundle, build_bundle, bundle_plan, open_bundle
from sepdeploy.devices.bundle.pins import ABIS, RUNTIMES

__all__ = ["ABIS", "RUNTIMES", "Bundle", "build_bundle", "bundle_plan", "open_bundle"]
