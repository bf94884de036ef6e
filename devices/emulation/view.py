"""The board as its programs see it: /proc/cpuinfo and /sys/devices/system/cpu.

The emulator looks up every absolute path under its library prefix first. Runtimes pick kernels and
block sizes by what these files say, so without them a result would depend on the machine that
emulates: number of cores, cache sizes, and (before qemu 8.1) a description of an x86 processor, at
which newer runtimes crash.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from sepdeploy.cache import cache_folder, digest, whole_folder
from sepdeploy.devices.emulation.cores import Core


@dataclass(frozen=True)
class Board:
    """What is around the core: number of cores, clock and caches.

    A clock (kHz) or cache (KiB) of 0 stands for that of a usual board with such cores; there may be
    no third-level cache.
    """

    processors: int = 4
    khz: int = 0
    l2_kib: int = 0
    l1d_kib: int = 0
    l1i_kib: int = 0
    l3_kib: int = 0

    def caches(self, core: Core) -> str:
        """Return the caches as options of the plugin that records blocks."""
        l1d, l1i, l2 = self.l1d_kib or 32, self.l1i_kib or 32, self.l2_kib or core.l2_kib
        return f"l1d={l1d},l1i={l1i},l2={l2},l3={self.l3_kib}"


def board_view(core: Core, board: Board) -> Path:
    """Return a folder with the board's files, made at the first call.

    Raises:
        BadInput: The cache cannot be written.
    """
    files = view_files(core, board)
    key = digest(json.dumps([asdict(core), files]))
    folder = cache_folder() / "boards" / f"{core.name}-{key}"
    if not folder.is_dir():
        with whole_folder(folder) as made:
            for name, text in files.items():
                path = made / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="ascii")
    return folder


def view_files(core: Core, board: Board) -> dict[str, str]:
    """Return the files by their path below the root."""
    processors = board.processors
    everyone = f"0-{processors - 1}" if processors > 1 else "0"
    cpu = "sys/devices/system/cpu"
    files = {
        "proc/cpuinfo": "".join(_processor(core, i) for i in range(processors)),
        f"{cpu}/possible": everyone,
        f"{cpu}/present": everyone,
        f"{cpu}/online": everyone,
        f"{cpu}/kernel_max": "255",
    }
    for i in range(processors):
        files |= {
            f"{cpu}/cpu{i}/regs/identification/midr_el1": f"0x{core.midr:016x}",
            f"{cpu}/cpu{i}/cpufreq/cpuinfo_max_freq": str(board.khz or core.khz),
            f"{cpu}/cpu{i}/cpufreq/cpuinfo_min_freq": "600000",
            f"{cpu}/cpu{i}/topology/physical_package_id": "0",
            f"{cpu}/cpu{i}/topology/core_id": str(i),
            f"{cpu}/cpu{i}/topology/core_siblings_list": everyone,
            f"{cpu}/cpu{i}/topology/thread_siblings_list": str(i),
            f"{cpu}/cpu{i}/topology/cluster_cpus_list": everyone,
            f"{cpu}/cpu{i}/cache/index2/level": "2",
            f"{cpu}/cpu{i}/cache/index2/size": f"{board.l2_kib or core.l2_kib}K",
            f"{cpu}/cpu{i}/cache/index2/shared_cpu_list": everyone,
        }
    return {name: text if text.endswith("\n") else text + "\n" for name, text in files.items()}


def _processor(core: Core, index: int) -> str:
    return (
        f"processor\t: {index}\n"
        "BogoMIPS\t: 108.00\n"
        f"Features\t: {core.features}\n"
        "CPU implementer\t: 0x41\n"
        "CPU architecture: 8\n"
        f"CPU variant\t: 0x{core.variant:x}\n"
        f"CPU part\t: 0x{core.part:03x}\n"
        f"CPU revision\t: {core.revision}\n\n"
    )
