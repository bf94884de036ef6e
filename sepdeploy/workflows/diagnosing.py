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
)

_TOOLS: tuple[tuple[str, str, str], ...] = (
    ("c++", "native kernels (optional)", "apt-get install g++"),
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
    return tuple(found)
