"""The built library in the user's cache: found, checked to be ours, and described.

A build is a folder named by the digest of what it was made from. It holds the library and a
record with the library's own digest: a file that differs from its record, that belongs to
somebody else or that others may write is never loaded.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from sepdeploy import cache
from sepdeploy.codec import read
from sepdeploy.errors import BadInput
from sepdeploy.programs import processor_family
from sepdeploy.runtimes.native import toolchain

LIBRARY = "libsepdeploy_native.so"
RECORD = "native.json"
SCHEMA = "sepdeploy.native/1"
SWITCH = "SEPDEPLOY_NATIVE"  # "0" or "off": as if no library had been built
MAX_RECORD = 1 << 20


@dataclass(frozen=True)
class Build:
    """The record of a build.

    Attributes:
        sha256: The library's digest.
        digest: What the build was made from.
        compiler: What built it.
        runtimes: Runtime to version for which its self-test passed.
    """

    schema: str = field(default=SCHEMA, kw_only=True)
    sha256: str
    digest: str
    compiler: str
    runtimes: dict[str, str]


@dataclass(frozen=True)
class NativeStatus:
    """What there is of native kernels on this machine.

    Attributes:
        state: "ready", "not built", "off" (switched off by ``SEPDEPLOY_NATIVE``) or "refused".
        path: The library, "" where there is none.
        sha256: Its digest.
        compiler: What built it.
        runtimes: Runtime to version for which its self-test passed.
        why: Why it is not ready, one line.
    """

    state: str
    path: str = ""
    sha256: str = ""
    compiler: str = ""
    runtimes: dict[str, str] = field(default_factory=dict)
    why: str = ""


def cache_folder() -> Path:
    """Return the folder of native builds: ``$XDG_CACHE_HOME/sepdeploy/native``."""
    return cache.cache_folder() / "native"


def build_folder() -> Path:
    """Return the folder of this machine's build, whether it exists or not."""
    machine = processor_family()
    return cache_folder() / f"{machine}-{toolchain.digest(machine)}"


def switched_off() -> bool:
    """Whether the user does not want native kernels."""
    return os.environ.get(SWITCH, "").lower() in ("0", "off", "no", "false")


def native_status() -> NativeStatus:
    """Describe the native library without loading it."""
    if switched_off():
        return NativeStatus("off", why=f"{SWITCH} is set to {os.environ[SWITCH]}")
    folder = build_folder()
    path = folder / LIBRARY
    if not path.is_file():
        return NativeStatus("not built", why="sepdeploy devices setup host builds them")
    try:
        build = read(Build, folder / RECORD, limit=MAX_RECORD)
    except BadInput:
        why = f"{path} was not built here: it has no record"
        return NativeStatus("refused", str(path), why=why)
    why = _refusal(path, build)
    if why:
        return NativeStatus("refused", str(path), why=why)
    return NativeStatus("ready", str(path), build.sha256, build.compiler, build.runtimes)


def _refusal(path: Path, build: Build) -> str:
    """Return why a library must not be loaded, "" where it may be."""
    return cache.untrusted(path.parent / RECORD, "") or cache.untrusted(path, build.sha256)
