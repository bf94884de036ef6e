"""Downloads: wheels checked against pinned digests, packages checked by the system's own keys.

Everything goes through the clients that the machine is already set up with (pip and apt), as an
ordinary user: apt gets a private configuration, so that neither root nor a foreign architecture on
the machine itself is needed.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from functools import cmp_to_key
from pathlib import Path

from sepdeploy.cache import cache_folder, untrusted
from sepdeploy.devices.bundle.pins import DEBIAN_PACKAGES, LIBRARIES, TAGS, Abi, Wheel
from sepdeploy.errors import Missing
from sepdeploy.files import scratch, sha256_file, temporary_folder
from sepdeploy.programs import INSTALL, run

PYTHON = "3.11"  # whose wheel is taken; the library inside is the same for all
INDEX_TIMEOUT_S, FILE_TIMEOUT_S = 120.0, 300.0


def downloads_folder(abi: Abi) -> Path:
    """Return where downloaded files are kept; files put there by hand are used too."""
    return cache_folder() / "downloads" / abi.name


def wheel_command(wheel: Wheel, abi: Abi, folder: Path) -> list[str]:
    """Return the command line that downloads a wheel."""
    platforms = [f"--platform={tag}_{abi.name}" for tag in TAGS]
    tags = [f"--python-version={PYTHON}", "--implementation=cp", "--abi=cp311", *platforms]
    return [
        *("pip", "download", "--no-deps", "--only-binary=:all:", *tags),
        *("-d", str(folder), f"{wheel.package}=={wheel.version}"),
    ]


def cached_wheel(wheel: Wheel, abi: Abi) -> Path | None:
    """Return a downloaded wheel whose digest is the pinned one."""
    stem = f"{wheel.package.replace('-', '_')}-{wheel.version}-"
    for path in sorted(downloads_folder(abi).glob(f"{stem}*.whl")):
        if path.stat().st_size == wheel.size and sha256_file(path) == wheel.sha256:
            return path
    return None


def fetch_wheel(wheel: Wheel, abi: Abi) -> Path:
    """Return a wheel, downloading it when it is not there yet.

    Raises:
        Missing: No network, no installer, or the file is not the pinned one.
    """
    found = cached_wheel(wheel, abi)
    if found:
        return found
    folder = downloads_folder(abi)
    folder.mkdir(parents=True, exist_ok=True)
    by_hand = " ".join(wheel_command(wheel, abi, folder))
    with temporary_folder(folder, ".fetch-") as place:
        wanted = place / "wanted.txt"
        wanted.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
        command = wheel_command(wheel, abi, place)[1:-1]
        done = run(
            [sys.executable, "-m", "pip", *command, "--require-hashes", "-r", str(wanted)],
            timeout=FILE_TIMEOUT_S,
        )
        files = list(place.glob("*.whl"))
        if done.returncode or len(files) != 1:
            raise Missing(
                f"cannot download {wheel.package} {wheel.version} for {abi.name}: "
                f"{_reason(done.stderr)}",
                hint=f"with a network: {by_hand}",
            )
        files[0].replace(folder / files[0].name)
        return folder / files[0].name


def fetch_packages(abi: Abi) -> list[Path]:
    """Return the distribution's packages that hold the C and C++ libraries.

    Raises:
        Missing: No network, or not a Debian-like machine.
    """
    found = cached_packages(abi)
    if found:
        return found
    folder = downloads_folder(abi)
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    names = " ".join(f"{p}:{abi.debian}" for p in DEBIAN_PACKAGES)
    by_hand = f"apt-get download {names}"
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise Missing(
            "this machine has no apt: the C library of the target cannot be fetched",
            hint=f"on a Debian machine: {by_hand}, then copy the files to {folder}",
        )
    with scratch() as place:
        reason = _apt_download(place, abi.debian, DEBIAN_PACKAGES)
        if reason:
            raise Missing(
                f"cannot download {', '.join(DEBIAN_PACKAGES)} for {abi.debian}: {reason}",
                hint=f"with a network, on Debian: sudo dpkg --add-architecture {abi.debian} && "
                f"sudo apt-get update && cd {folder} && {by_hand}; on Ubuntu: {INSTALL} "
                f"libstdc++6-{abi.debian}-cross",
            )
        for path in place.glob("*.deb"):  # apt has checked their signatures
            record_of(folder / path.name).write_text(sha256_file(path) + "\n", encoding="ascii")
            shutil.move(path, folder / path.name)
            (folder / path.name).chmod(0o644)
    return cached_packages(abi)


def cached_packages(abi: Abi) -> list[Path]:
    """Return the newest downloaded packages, an empty list unless all are there.

    Raises:
        Missing: One is not the file that was downloaded, or others may have written it.
    """
    found = []
    for name in DEBIAN_PACKAGES:
        files = list(downloads_folder(abi).glob(f"{name}_*_{abi.debian}.deb"))
        if not files:
            return []
        newest = max(files, key=cmp_to_key(_by_version))
        record = record_of(newest)
        known = record.read_text(encoding="ascii").strip() if record.is_file() else ""
        if why := untrusted(newest, known):
            raise Missing(f"{newest} is not unpacked: {why}", hint=f"rm {newest}; set up again")
        found.append(newest)
    return found


def record_of(package: Path) -> Path:
    """Return where the digest of a downloaded package is kept; one put there by hand has none."""
    return package.with_name(f"{package.name}.sha256")


def _by_version(one: Path, other: Path) -> int:
    """Compare two packages by their versions, as the distribution does (12u14 after 12u9)."""
    versions = [package_version(path) for path in (one, other)]
    for relation, sign in (("lt", -1), ("gt", 1)):
        if not run(
            ["dpkg", "--compare-versions", versions[0], relation, versions[1]], timeout=20
        ).returncode:
            return sign
    return 0


def cross_libraries(abi: Abi, root: Path = Path("/usr")) -> Path | None:
    """Return the folder of the cross-compiler's own libraries when it holds all that is needed.

    They serve where the distribution keeps other architectures in places that its own sources do
    not name (Ubuntu).
    """
    folder = root / abi.triplet / "lib"
    wanted = (abi.loader, *LIBRARIES)
    return folder if all((folder / name).is_file() for name in wanted) else None


def package_version(path: Path) -> str:
    """Return the version in a package's file name (``libc6_2.36-9_arm64.deb``)."""
    return path.name.split("_")[1].replace("%3a", ":")


def _apt_download(scratch: Path, architecture: str, packages: Sequence[str]) -> str:
    """Download into ``scratch``; return why it failed, "" when it did not."""
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (scratch / folder).mkdir(parents=True)
    configuration = scratch / "apt.conf"
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "Dir::State": f"{scratch}/state",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": f"{scratch}/cache",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",  # the folder is private: no other user could write there
        "Acquire::Retries": "2",
    }
    lines = [f'{key} "{value}";\n' for key, value in settings.items()]
    configuration.write_text("#clear APT::Architectures;\n" + "".join(lines))
    env = {"APT_CONFIG": str(configuration)}
    # Some of a machine's sources may lack this architecture; what counts is whether the packages
    # are found in those that have it.
    updated = run(["apt-get", "update", "-q"], timeout=INDEX_TIMEOUT_S, cwd=scratch, env=env)
    done = run(
        ["apt-get", "download", "-q", *packages], timeout=FILE_TIMEOUT_S, cwd=scratch, env=env
    )
    if done.returncode or len(list(scratch.glob("*.deb"))) != len(packages):
        return _reason(updated.stderr + done.stderr)
    return ""


def _reason(text: str) -> str:
    """Return the line of a client's messages that tells most, without addresses."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("ERROR", "E:"))] or lines or ["no answer"]
    words = [w for w in telling[-1].split() if "://" not in w]
    return " ".join(words)[:200]
