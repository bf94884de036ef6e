"""The processor cores that can be emulated, and which one stands in for another."""

from __future__ import annotations

from dataclasses import dataclass

from sepdeploy.errors import unknown_name

ARMV8 = "fp asimd evtstrm crc32 cpuid"
ARMV8_2 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
    "asimddp"
)


@dataclass(frozen=True)
class Core:
    """A core that the emulator knows, as a board with such cores describes itself.

    ``part``, ``variant`` and ``revision`` are those of the identification register; ``features``
    the line of ``/proc/cpuinfo``; ``khz`` and ``l2_kib`` those of the board that is emulated by
    default. ``dot`` tells whether it has int8 dot products.
    """

    name: str
    part: int
    variant: int
    revision: int
    features: str
    khz: int
    l2_kib: int
    dot: bool

    @property
    def midr(self) -> int:
        """The value of the identification register."""
        return 0x41 << 24 | self.variant << 20 | 0xF << 16 | self.part << 4 | self.revision


CORES: dict[str, Core] = {
    core.name: core
    for core in (
        Core("cortex-a53", 0xD03, 0, 4, ARMV8, 1_400_000, 512, False),
        Core("cortex-a57", 0xD07, 1, 1, ARMV8, 1_430_000, 2048, False),
        Core("cortex-a72", 0xD08, 0, 3, ARMV8, 1_800_000, 1024, False),
        Core("cortex-a76", 0xD0B, 4, 1, ARMV8_2, 2_400_000, 512, True),
    )
}

# Cores that every supported emulator lacks, and the one whose kernels the runtimes would pick most
# alike: same vector width, same dot products. None of them has a wider vector unit in use.
STAND_INS = {
    "cortex-a35": "cortex-a53",
    "cortex-a55": "cortex-a76",
    "cortex-a73": "cortex-a72",
    "cortex-a75": "cortex-a76",
    "cortex-a77": "cortex-a76",
    "cortex-a78": "cortex-a76",
    "cortex-a510": "cortex-a76",
    "cortex-a710": "cortex-a76",
    "cortex-a715": "cortex-a76",
    "cortex-x1": "cortex-a76",
    "cortex-x2": "cortex-a76",
    "cortex-x3": "cortex-a76",
}


@dataclass(frozen=True)
class EmulatedCore:
    """The core that is emulated for a device's own; ``note`` says so where they differ."""

    core: Core
    wanted: str
    note: str = ""

    @property
    def exact(self) -> bool:
        """Whether the emulated core is the device's own."""
        return self.core.name == self.wanted


def emulated_core(name: str) -> EmulatedCore:
    """Return what is emulated for a core ("cortex-a72").

    Raises:
        BadInput: Nothing is known about that core.
    """
    if name in CORES:
        return EmulatedCore(CORES[name], name)
    if name not in STAND_INS:
        raise unknown_name("core", name, [*CORES, *STAND_INS])
    other = STAND_INS[name]
    return EmulatedCore(
        CORES[other], name, f"{name} is emulated as {other}, the nearest core that qemu has"
    )
