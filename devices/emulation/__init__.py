"""The real ARM runtimes on an emulated core: numerics, instruction counts, memory; never a time.

``setup_device`` fetches and builds what is needed, ``device_transport`` opens it without a network;
``count_instructions``, ``peak_memory`` and ``measurements`` take an ``Emulator`` of it.
"""

from sepdeploy.devices.emulation.cores import CORES, EmulatedCore, emulated_core
from sepdeploy.devices.emulation.emulator import Emulator, IllegalInstruction
from sepdeploy.devices.emulation.measure import (
    Counts,
    Outcome,
    count_instructions,
    measurements,
    peak_memory,
    record_blocks,
    runtime_for,
)
from sepdeploy.devices.emulation.setup import (
    INSTALL,
    PACKAGES,
    SetupPlan,
    can_emulate,
    device_transport,
    qemu_transport,
    setup,
    setup_device,
    setup_plan,
)
from sepdeploy.devices.emulation.view import Board

__all__ = [
    "CORES",
    "INSTALL",
    "PACKAGES",
    "Board",
    "Counts",
    "EmulatedCore",
    "Emulator",
    "IllegalInstruction",
    "Outcome",
    "SetupPlan",
    "can_emulate",
    "count_instructions",
    "device_transport",
    "emulated_core",
    "measurements",
    "peak_memory",
    "qemu_transport",
    "record_blocks",
    "runtime_for",
    "setup",
    "setup_device",
    "setup_plan",
]
