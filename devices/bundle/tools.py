"""Programs of this machine that building and emulating need, found or reported as missing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sepdeploy.devices.bundle.pins import ABIS
from sepdeploy.errors import Missing

INSTALL = "sudo apt-get update && sudo apt-get install -y"


@dataclass(frozen=True)
class Tool:
    """A program and the first line of what it says about its version."""

    name: str
    path: str
    version: str


def find_tool(name: str, *, purpose: str, packages: str) -> Tool:
    """Return a program of this machine.

    Args:
        name: What to look for on the search path.
        purpose: What it is needed for.
        packages: The Debian packages that bring it.

    Raises:
        Missing: It is not installed; the hint is the command that installs it.
    """
    path = shutil.which(name)
    if path is None:
        raise Missing(f"{name} is not installed: {purpose}", hint=f"{INSTALL} {packages}")
    return Tool(name, path, _first_line([path, "--version"]))


def find_compiler(abi: str) -> Tool:
    """Return a C compiler whose programs run on machines of that ABI.

    Raises:
        Missing: None is installed.
    """
    purpose = f"it builds the runner for {abi}"
    if platform.machine() == abi:
        for name in ("cc", "gcc", "clang"):
            if shutil.which(name):
                return find_tool(name, purpose=purpose, packages="gcc libc6-dev")
        return find_tool("gcc", purpose=purpose, packages="gcc libc6-dev")
    pin = ABIS[abi]
    package = pin.triplet.replace("_", "-")
    return find_tool(
        f"{pin.triplet}-gcc",
        purpose=purpose,
        packages=f"gcc-{package} libc6-dev-{pin.debian}-cross",
    )


def compile_c(tool: Tool, sources: Sequence[Path], target: Path, flags: Sequence[str]) -> None:
    """Compile C files into one program or library.

    Raises:
        Missing: The compiler refuses, usually because the C library's headers are absent.
    """
    own = [f for f in flags if not f.startswith("-l")]
    libraries = [f for f in flags if f.startswith("-l")]
    arguments = [
        tool.path,
        "-std=gnu11",
        "-O2",
        *own,
        "-o",
        str(target),
        *map(str, sources),
        *libraries,
    ]
    done = run(arguments, timeout=120)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        raise Missing(
            f"{tool.name} cannot build {target.name}: {' '.join(lines[0].split())[:200]}",
            hint=f"{INSTALL} gcc libc6-dev gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
        )


def run(
    arguments: Sequence[str],
    *,
    timeout: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program of this machine in the C locale; it gets no input.

    A program that does not end in time counts as failed.
    """
    variables = {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}
    try:
        return subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            cwd=cwd,
            env=variables,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(
            arguments, 124, "", f"error: no answer within {timeout:.0f} s"
        )


def _first_line(arguments: Sequence[str]) -> str:
    lines = run(arguments, timeout=20).stdout.strip().splitlines()
    return lines[0] if lines else ""
