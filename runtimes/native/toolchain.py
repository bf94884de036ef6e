"""The C++ compiler, what it is told, and the digest that names a build."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from sepdeploy import cache
from sepdeploy.errors import BadInput, Missing
from sepdeploy.programs import environment, first_error, run, version_line

FORMAT = "1"  # part of the digest: older builds are left alone when the make-up changes
KERNELS = "kernels.cpp"
INSTALL = "sudo apt-get install -y g++ (or set CXX); without it, function bodies run instead"
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden")
TIMEOUT_S = 300.0

# Kernel sets per processor family, best first: name and the flags that allow its instructions.
# The library holds all of a family and takes the best one that the processor runs.
SETS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "x86_64": (
        (
            "avx512",
            ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma",
             "-mprefer-vector-width=512"),
        ),
        ("avx2", ("-mavx2", "-mfma")),
        ("base", ()),
    ),
    "aarch64": (("base", ()),),
}  # fmt: skip


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: the command that starts it, and what it says about itself."""

    command: tuple[str, ...]
    version: str


def find_compiler(command: str | None = None) -> Compiler:
    """Return the C++ compiler: ``command``, else ``$CXX``, else the first one on the path.

    Raises:
        Missing: There is none, or it does not start.
    """
    wanted = command or os.environ.get("CXX", "")
    try:
        tried = [shlex.split(wanted)] if wanted else [["c++"], ["g++"], ["clang++"]]
    except ValueError as error:
        raise Missing(f"CXX is not a command: {wanted}", hint="CXX=g++") from error
    for words in tried:
        path = shutil.which(words[0]) if words else None
        if path is not None:
            version = version_line([path, *words[1:]])
            if version:
                return Compiler((path, *words[1:]), version)
    names = wanted or "c++, g++, clang++"
    raise Missing(f"no C++ compiler ({names}): native kernels cannot be built", hint=INSTALL)


def sets_of(machine: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the kernel sets for a family; one portable set for an unknown one."""
    return SETS.get(machine, (("base", ()),))


def sources() -> tuple[Path, ...]:
    """Return the C++ files as they lie in the installed package."""
    folder = Path(str(resources.files("sepdeploy.runtimes.native"))) / "src"
    return tuple(sorted(folder.glob("*.cpp")))


def headers() -> tuple[Path, ...]:
    """Return the C++ headers."""
    return tuple(sorted(sources()[0].parent.glob("*.h")))


def digest(machine: str) -> str:
    """Return the key of a build: the digest of the sources and of the compiler's flags."""
    parts: list[str | bytes] = [FORMAT, machine, " ".join(FLAGS)]
    parts += [f"{name} {' '.join(flags)}" for name, flags in sets_of(machine)]
    for path in (*sources(), *headers()):
        parts += [path.name, path.read_bytes()]
    return cache.digest(*parts)


def compile_library(compiler: Compiler, machine: str, target: Path, scratch: Path) -> None:
    """Compile the sources into one shared library, the kernels once per set.

    Args:
        compiler: The compiler; one that builds for ``machine``.
        machine: Processor family.
        target: The library to write.
        scratch: Folder for object files.

    Raises:
        BadInput: The compiler refuses its own work (a full disk, a broken installation).
        Missing: The compiler cannot build C++ libraries.
    """
    names = [name for name, _ in sets_of(machine)]
    table = " ".join(f"SET({name})" for name in names)
    common = [f"-DSEPDEPLOY_SETS(SET)={table}", f'-DSEPDEPLOY_DIGEST="{digest(machine)}"']
    jobs = [
        (path, scratch / f"{path.stem}.o", common) for path in sources() if path.name != KERNELS
    ]
    kernels = next(path for path in sources() if path.name == KERNELS)
    jobs += [
        (kernels, scratch / f"kernels-{name}.o", [f"-DSEPDEPLOY_SET={name}", *flags])
        for name, flags in sets_of(machine)
    ]
    started = [
        (
            path,
            subprocess.Popen(
                [*compiler.command, *FLAGS, *flags, "-c", str(path), "-o", str(made)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=environment(),
            ),
        )
        for path, made, flags in jobs
    ]
    try:
        for path, process in started:
            output, _ = process.communicate(timeout=TIMEOUT_S)
            _check(compiler, path.name, process.returncode, output)
    except subprocess.TimeoutExpired as error:
        raise Missing(
            f"{compiler.command[0]} did not finish within {TIMEOUT_S:.0f} s", hint=INSTALL
        ) from error
    finally:
        for _, process in started:
            if process.poll() is None:
                process.kill()
            if process.stdout is not None and not process.stdout.closed:
                process.communicate()
    objects = [str(made) for _, made, _ in jobs]
    done = run([*compiler.command, "-shared", "-o", str(target), *objects], timeout=TIMEOUT_S)
    _check(compiler, target.name, done.returncode, done.stdout + done.stderr)


def _check(compiler: Compiler, name: str, code: int, output: str) -> None:
    if code == 0:
        return
    what = first_error(output) or f"exit code {code}"
    if "No space left" in output:
        raise BadInput(f"{name} cannot be built: {what}", hint="free some space")
    raise Missing(f"{compiler.command[0]} cannot build {name}: {what}", hint=INSTALL)
