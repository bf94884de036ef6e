"""Builds the bundle of an ABI in the user's cache, and opens it again."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from shlex import quote
from typing import Any

from sepdeploy.cache import cache_folder, digest, untrusted, whole_folder
from sepdeploy.codec import parse_json
from sepdeploy.devices.bundle.fetch import (
    cached_packages,
    cached_wheel,
    cross_libraries,
    fetch_packages,
    fetch_wheel,
    package_version,
)
from sepdeploy.devices.bundle.pins import (
    ABIS,
    DEBIAN_PACKAGES,
    INDEX_SIZE,
    LIBRARIES,
    PACKAGES_SIZE,
    Abi,
    Wheel,
)
from sepdeploy.devices.bundle.tools import compile_c, find_compiler
from sepdeploy.errors import BadInput, Missing, unknown_name
from sepdeploy.files import read_bytes, sha256_file, temporary_folder
from sepdeploy.programs import run
from sepdeploy.records import Notify

MANIFEST = "bundle.json"
FORMAT = "1"  # part of the key: older bundles are built again when their make-up changes


@dataclass(frozen=True)
class Bundle:
    """A folder with a runner, its loader and everything they load.

    ``files`` are names with their SHA-256; ``versions`` those of the runtimes and of the packages
    that the C library came from.
    """

    folder: Path
    abi: str
    loader: str
    files: dict[str, str]
    versions: dict[str, str]
    compiler: str

    @property
    def key(self) -> str:
        """A name for exactly this content, for the folder on the target."""
        return digest(json.dumps(self.files, sort_keys=True))

    def command(self, folder: str) -> list[str]:
        """Return how the runner is started where the bundle lies in ``folder``."""
        return [f"{folder}/{self.loader}", "--library-path", folder, f"{folder}/runner"]


def _abi(name: str) -> Abi:
    if name not in ABIS:
        raise unknown_name("ABI", name, ABIS)
    return ABIS[name]


def source_folder() -> Path:
    """Return where the runner's C source lies in the installed package."""
    return Path(str(resources.files("sepdeploy.devices.bundle"))) / "c"


def _folder(abi: Abi) -> Path:
    sources = [p.read_bytes() for p in sorted(source_folder().glob("*.[ch]"))]
    pins = [f"{w.package} {w.version} {w.sha256}" for w in abi.wheels]
    key = digest(FORMAT, abi.name, *pins, *DEBIAN_PACKAGES, *LIBRARIES, *sources)
    return cache_folder() / "bundles" / f"{abi.name}-{key}"


def bundle_plan(abi: str) -> tuple[list[str], int]:
    """Return what building the bundle would download: one line each, and bytes in all.

    Raises:
        BadInput: No such ABI.
    """
    pin = _abi(abi)
    lines: list[str] = []
    total = 0
    if (_folder(pin) / MANIFEST).is_file():
        return lines, total
    for wheel in pin.wheels:
        if not cached_wheel(wheel, pin):
            lines.append(f"{wheel.package} {wheel.version} for {abi}: {wheel.size / 1e6:.1f} MB")
            total += wheel.size
    if not cached_packages(pin):
        lines.append(
            f"package index of {pin.debian} and {', '.join(DEBIAN_PACKAGES)}: about "
            f"{(INDEX_SIZE + PACKAGES_SIZE) / 1e6:.0f} MB"
        )
        total += INDEX_SIZE + PACKAGES_SIZE
    return lines, total


def open_bundle(abi: str, *, setup: str = "sepdeploy devices setup rpi4") -> Bundle:
    """Return the bundle that was built before.

    Args:
        abi: "aarch64" or "x86_64".
        setup: The command that builds it, for the hint.

    Raises:
        BadInput: No such ABI.
        Missing: It was not built, or a file in it is damaged.
    """
    folder = _folder(_abi(abi))
    try:
        text = read_bytes(folder / MANIFEST, limit=1 << 20)
        data: dict[str, Any] = parse_json(text, where=str(folder / MANIFEST))
        bundle = Bundle(folder=folder, **data)
    except (BadInput, TypeError) as error:
        if not (folder / MANIFEST).exists():
            raise Missing(f"the bundle for {abi} is not built yet", hint=setup) from None
        raise Missing(
            f"the bundle in {folder} is damaged: {error}",
            hint=f"rm -r {folder} && {setup}",
        ) from error
    for name, wanted in {MANIFEST: "", **bundle.files}.items():
        if why := untrusted(folder / name, wanted):
            raise Missing(
                f"the bundle's file {folder / name} is missing, damaged or not ours: {why}",
                hint=f"rm -r {folder} && {setup}",
            )
    return bundle


def build_bundle(abi: str, *, say: Notify = lambda line: None) -> Bundle:
    """Build the bundle of an ABI, or return the one that is there.

    Args:
        abi: "aarch64" or "x86_64".
        say: Gets a line before each step that takes time.

    Raises:
        BadInput: No such ABI, or the cache cannot be written.
        Missing: No network, no compiler, or not a Debian-like machine.
    """
    pin = _abi(abi)
    folder = _folder(pin)
    if (folder / MANIFEST).is_file():
        return open_bundle(abi)
    compiler = find_compiler(abi)  # before anything is downloaded
    with whole_folder(folder) as made:
        versions = {}
        for wheel in pin.wheels:
            say(f"{wheel.package} {wheel.version} for {abi}")
            _take_library(fetch_wheel(wheel, pin), wheel, made)
            versions[wheel.runtime] = wheel.version
        (made / "litert.version").write_text(versions["litert"] + "\n", encoding="ascii")
        say(f"C and C++ libraries for {pin.debian}")
        versions |= _take_c_library(pin, made)
        say(f"building the runner with {compiler.name}")
        sources = sorted(source_folder().glob("*.c"))
        compile_c(compiler, sources, made / "runner", ["-ldl", "-lm", "-lpthread"])
        _write_manifest(made, pin, versions, compiler.version)
    return open_bundle(abi)


def _write_manifest(made: Path, abi: Abi, versions: dict[str, str], compiler: str) -> None:
    files = {}
    for path in sorted(made.iterdir()):
        path.chmod(0o755 if path.name in (abi.loader, "runner") else 0o644)
        files[path.name] = sha256_file(path)
    data = {
        "abi": abi.name,
        "loader": abi.loader,
        "files": files,
        "versions": versions,
        "compiler": compiler,
    }
    (made / MANIFEST).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _take_library(archive: Path, wheel: Wheel, target: Path) -> None:
    try:
        with (
            zipfile.ZipFile(archive) as file,
            file.open(wheel.member) as source,
            (target / wheel.library).open("wb") as copy,
        ):
            shutil.copyfileobj(source, copy)
    except (KeyError, zipfile.BadZipFile) as error:
        raise Missing(
            f"{archive.name} does not hold {wheel.member}",
            hint=f"rm {quote(str(archive))} and try again",
        ) from error


def _take_c_library(abi: Abi, target: Path) -> dict[str, str]:
    """Take the C and C++ libraries from packages, else from the cross-compiler's own."""
    try:
        return _take_packages(fetch_packages(abi), abi, target)
    except Missing:
        folder = cross_libraries(abi)
        if folder is None:
            raise
    for name in (abi.loader, *LIBRARIES):
        shutil.copyfile(folder / name, target / name)
    package = f"libc6-{abi.debian}-cross"
    version = run(["dpkg-query", "-W", "-f", "${Version}", package], timeout=20).stdout.strip()
    return {"libc6": f"{version or 'unknown'} ({package})"}


def _take_packages(packages: list[Path], abi: Abi, target: Path) -> dict[str, str]:
    """Unpack packages and take the libraries of the table; return the packages' versions."""
    versions = {}
    with temporary_folder(target.parent, ".unpack-") as scratch:
        for package in packages:
            done = run(["dpkg-deb", "-x", str(package), str(scratch)], timeout=60)
            if done.returncode:
                raise Missing(
                    f"{package} cannot be unpacked", hint=f"rm {package} and run the set-up again"
                )
            versions[package.name.split("_")[0]] = package_version(package)
        for name in (abi.loader, *LIBRARIES):
            found = _find(scratch, name)
            if found is None:
                raise Missing(
                    f"{name} is in none of {', '.join(p.name for p in packages)}",
                    hint="run sepdeploy devices setup again; -v shows what was fetched",
                )
            shutil.copyfile(found, target / name)
    return versions


def _find(root: Path, name: str) -> Path | None:
    """Return a library below ``root``, a link to it followed inside ``root`` only."""
    for path in sorted(root.rglob(name)):
        found = path
        for _ in range(8):
            if not found.is_symlink():
                break
            link = found.readlink()
            found = root.joinpath(*link.parts[1:]) if link.is_absolute() else found.parent / link
        if found.is_file() and not found.is_symlink():
            return found
    return None
