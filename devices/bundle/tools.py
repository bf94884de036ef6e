"""The C compilers that building and emulating need."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

from sepdeploy.devices.bundle.pins import ABIS
from sepdeploy.errors import Missing
from sepdeploy.programs import INSTALL, Tool, find_tool, first_error, run


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
        raise Missing(
            f"{tool.name} cannot build {target.name}: {first_error(done.stderr) or 'no message'}",
            hint=f"{INSTALL} gcc libc6-dev gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
        )
