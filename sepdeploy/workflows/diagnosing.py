"""What ``doctor`` finds: runtimes, optional packages and tools, with the command that installs."""

from __future__ import annotations

import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata

from sepdeploy import __version__


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for."""

    name: str
    present: bool
    version: str
    purpose: str
    install: str


# distribution, what it is for, how to get it
_PACKAGES: tuple[tuple[str, str, str], ...] = (
    ("onnxruntime", "run .onnx", "pip install onnxruntime"),
    ("ai-edge-litert", "run .tflite", "pip install 'sepdeploy[tflite]'"),
    (
        "tflite-runtime",
        "run .tflite on the older runtime (Python 3.11, numpy<2)",
        "pip install 'sepdeploy[tflite-runtime]'",
    ),
    ("torch", "train, export, attack", "pip install 'sepdeploy[train]'"),
    ("onnxscript", "export", "pip install 'sepdeploy[train]'"),
    ("onnxsim", "simplify exported graphs", "pip install 'sepdeploy[train]'"),
    ("scikit-learn", "the digits data set", "pip install 'sepdeploy[train]'"),
    ("pillow", "image folders", "pip install 'sepdeploy[train]'"),
    ("vl-convert-python", "write a report as a page", "pip install 'sepdeploy[report]'"),
)

_TOOLS: tuple[tuple[str, str, str], ...] = (
    ("c++", "native kernels (optional)", "apt-get install g++"),
    ("qemu-aarch64", "emulate a device", "apt-get install qemu-user"),
    (
        "aarch64-linux-gnu-gcc",
        "the compiled runner for ARM",
        "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    ),
    ("ssh", "measure on a device over ssh", "apt-get install openssh-client"),
    ("adb", "measure on a phone", "apt-get install adb"),
)


def diagnose() -> tuple[Finding, ...]:
    """Look for everything sepdeploy can use; imports nothing heavy."""
    found = [
        Finding("sepdeploy", True, __version__, "", ""),
        Finding("python", True, platform.python_version(), sys.platform, ""),
    ]
    for name, purpose, install in _PACKAGES:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            found.append(Finding(name, False, "", purpose, install))
        else:
            found.append(Finding(name, True, version, purpose, ""))
    for name, purpose, install in _TOOLS:
        path = shutil.which(name)
        found.append(Finding(name, path is not None, path or "", purpose, "" if path else install))
    found += [_native(), _emulation()]
    return tuple(found)


def _native() -> Finding:
    """Whether native kernels for custom nodes are built, and for which runtimes."""
    from sepdeploy.runtimes.native import native_status

    status = native_status()
    ready = status.state == "ready"
    where = ", ".join(f"{name} {version}" for name, version in status.runtimes.items())
    version = where or status.path if ready else "" if status.state == "not built" else status.why
    purpose = "run the custom flavour faster (optional)"
    install = "" if ready or status.state == "off" else "sepdeploy devices setup host"
    return Finding("native kernels", ready, version, purpose, install)


def _emulation() -> Finding:
    """Whether the emulated devices can be used: everything downloaded and built."""
    from sepdeploy.devices.emulation import setup_plan

    plan = setup_plan("cortex-a72")
    missing = "" if plan.ready else "sepdeploy devices setup rpi4"
    return Finding("emulation bundle", plan.ready, "ready", "bench --device rpi4", missing)
