"""Programs of this machine: looked up, reported as missing, and run to their end."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sepdeploy.errors import Missing

ALIASES = {"amd64": "x86_64", "arm64": "aarch64"}
TIE = ("setpriv", "--pdeathsig", "KILL", "--")
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
    return Tool(name, path, version_line([path]) or "")


def version_line(command: Sequence[str]) -> str | None:
    """Return the first line that a program says about its version, None where it fails."""
    done = run([*command, "--version"], timeout=20)
    return done.stdout.strip().partition("\n")[0] if done.returncode == 0 else None


def run(
    arguments: Sequence[str],
    *,
    timeout: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program of this machine in the C locale; it gets no input.

    A program that does not start or does not end in time counts as failed.
    """
    try:
        return subprocess.run(
            tied(arguments, env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            cwd=cwd,
            env={**environment(), **(env or {})},
            check=False,
        )
    except OSError as error:
        why = f"error: {error}"
    except subprocess.TimeoutExpired:
        why = f"error: no answer within {timeout:.0f} s"
    return subprocess.CompletedProcess(arguments, 124, "", why)


def tied(arguments: Sequence[str], env: Mapping[str, str] | None = None) -> list[str]:
    """Return the command of a program that dies with this process, whatever ends that.

    Only a system that can tell a program so has one; elsewhere the command is as it was.

    Args:
        arguments: The program and its arguments.
        env: Variables that it gets besides those of this process.
    """
    wanted = list(arguments)
    if not _can_tie() or shutil.which(wanted[0], path=(env or {}).get("PATH")) is None:
        return wanted
    return [*TIE, *wanted]


@functools.cache
def _can_tie() -> bool:
    if shutil.which(TIE[0]) is None:
        return False
    probe = [*TIE, "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def processor_family(machine: str = "") -> str:
    """Return the processor family of a machine, by default this one, as compilers name it."""
    name = (machine or platform.machine()).lower()
    return ALIASES.get(name, name)


def environment() -> dict[str, str]:
    """Return the environment of child processes, their messages in English."""
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def first_error(output: str) -> str:
    """Return the line of a program's output that says what went wrong, "" where it says nothing."""
    lines = output.splitlines()
    found = next((line for line in lines if "error" in line), lines[0] if lines else "")
    return " ".join(found.split())[:200]
