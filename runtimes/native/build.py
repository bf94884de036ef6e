"""Builds the native library in the user's cache, and proves it before it counts."""

from __future__ import annotations

import shutil
from pathlib import Path

from sepdeploy.cache import whole_folder
from sepdeploy.codec import dump
from sepdeploy.errors import ArtifactCheckFailed, BadInput
from sepdeploy.files import sha256_file, write_text
from sepdeploy.programs import processor_family
from sepdeploy.records import Notify
from sepdeploy.runtimes.native import library, proofs, toolchain
from sepdeploy.runtimes.native.library import LIBRARY, RECORD, Build, NativeStatus


def build_native(*, say: Notify = lambda line: None) -> NativeStatus:
    """Build the library for this machine, or return what is there already.

    The compiled library is tried out in a child process, by itself and in every installed
    runtime; what it fails in does not get to use it.

    Args:
        say: Gets a line before each step that takes time.

    Raises:
        ArtifactCheckFailed: The compiled kernels give wrong results.
        BadInput: The cache cannot be written.
        Missing: There is no C++ compiler.
    """
    if library.switched_off():
        raise BadInput(f"native kernels are switched off by {library.SWITCH}", hint="unset it")
    found = library.native_status()
    if found.state == "ready":
        return prove_again(found, say=say)
    compiler = toolchain.find_compiler()
    folder = library.build_folder()
    machine = processor_family()
    with whole_folder(folder) as made:
        names = ", ".join(name for name, _ in toolchain.sets_of(machine))
        say(f"building native kernels ({names}) with {compiler.version}")
        (made / "objects").mkdir()
        toolchain.compile_library(compiler, machine, made / LIBRARY, made / "objects")
        shutil.rmtree(made / "objects")
        (made / LIBRARY).chmod(0o644)
        say("testing them")
        _record(made, compiler.version, self_test(made / LIBRARY))
        if folder.exists():
            shutil.rmtree(folder)
    return library.native_status()


def _record(folder: Path, compiler: str, runtimes: dict[str, str]) -> None:
    made_from = toolchain.digest(processor_family())
    build = Build(sha256_file(folder / LIBRARY), made_from, compiler, runtimes)
    write_text(folder / RECORD, dump(build))
    (folder / RECORD).chmod(0o644)


def prove_again(found: NativeStatus, *, say: Notify = lambda line: None) -> NativeStatus:
    """Run the self-test again where runtimes were installed or changed since the build.

    Raises:
        ArtifactCheckFailed: The kernels give wrong results.
    """
    from sepdeploy import runtimes

    path = Path(found.path)
    if all(found.runtimes.get(name) == now for name, now in runtimes.versions().items()):
        return found
    say("testing the native kernels in the runtimes that are new")
    _record(path.parent, found.compiler, self_test(path))
    return library.native_status()


def self_test(path: Path) -> dict[str, str]:
    """Try a library out in child processes, so that one that crashes ends only its child.

    Returns:
        Version of each runtime in which its ops gave the right results.

    Raises:
        ArtifactCheckFailed: The kernels themselves give wrong results or crash.
    """
    from sepdeploy import runtimes

    alone = proofs.self_test(str(path), "kernels")
    if alone:
        raise ArtifactCheckFailed(
            f"the native kernels fail their self-test: {alone}",
            hint="everything works without them; report the compiler's version",
        )
    return {
        name: version
        for name, version in runtimes.versions().items()
        if not proofs.self_test(str(path), name)
    }
