"""Facts about this machine that stand beside every HOST number."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np

from sepdeploy import runtimes


def host_facts() -> dict[str, object]:
    """Return what is needed to judge a HOST number: processor, memory, system, load, versions.

    What a system does not tell is None.
    """
    return {
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cores": available_cores(),
        "memory_bytes": _memory(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load": host_load(),
        "system": platform.system(),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "runtimes": runtimes.versions(),
    }


def cpu_model() -> str | None:
    """Return the processor's name."""
    text = _read("/proc/cpuinfo") or ""
    pairs = (line.partition(":") for line in text.splitlines())
    found = {key.strip(): value.strip() for key, _, value in pairs}
    # Arm kernels give no model name; "Model" is the board, "Hardware" at best the chip's family.
    names = (found.get(key) for key in ("model name", "Model", "Hardware"))
    return next(filter(None, names), None) or platform.processor() or None


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def host_load() -> float | None:
    """Return how many processes wanted to run in the last minute; None where it is not told."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None
