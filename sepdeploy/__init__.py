"""sepdeploy: small robust networks that keep their factors all the way to the device.

The names below are loaded on first use, so that ``import sepdeploy`` stays light.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

# ONNX Runtime reports its use to its maker unless told not to before anything imports it, and a
# package that we use may be the one that does.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

_PUBLIC = {
    "ArtifactCheckFailed": "sepdeploy.errors",
    "BadInput": "sepdeploy.errors",
    "Incomparable": "sepdeploy.errors",
    "Missing": "sepdeploy.errors",
    "SepdeployError": "sepdeploy.errors",
    "Unstable": "sepdeploy.errors",
    "BenchReport": "sepdeploy.records",
    "Manifest": "sepdeploy.records",
    "bench": "sepdeploy.api",
    "check": "sepdeploy.api",
    "compress": "sepdeploy.api",
    "export": "sepdeploy.api",
    "inspect": "sepdeploy.api",
    "train": "sepdeploy.api",
    "verify": "sepdeploy.api",
    "load": "sepdeploy.models",
    "save": "sepdeploy.models",
    "wrap": "sepdeploy.models",
    "open": "sepdeploy.runtimes",
}

__all__ = [
    "ArtifactCheckFailed",
    "BadInput",
    "BenchReport",
    "Incomparable",
    "Manifest",
    "Missing",
    "SepdeployError",
    "Unstable",
    "__version__",
    "bench",
    "check",
    "compress",
    "export",
    "inspect",
    "load",
    "open",
    "save",
    "train",
    "verify",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    message = f"module 'sepdeploy' has no attribute '{name}'"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
