"""What is executed from the cache is ours: owner, mode, folders above, recorded digest."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from sepdeploy.cache import untrusted
from sepdeploy.devices.bundle.fetch import cached_packages, downloads_folder, record_of
from sepdeploy.devices.bundle.pins import ABIS, DEBIAN_PACKAGES
from sepdeploy.errors import Missing
from sepdeploy.files import sha256_file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cache/kind/key/library.so"
    path.parent.mkdir(parents=True, mode=0o755)
    path.write_bytes(b"code")
    path.chmod(0o644)
    return path


def test_an_own_file_passes(file: Path) -> None:
    assert untrusted(file, sha256_file(file)) == ""


@pytest.mark.parametrize("up", [0, 1, 2, 3])
def test_what_others_may_write_does_not(file: Path, up: int) -> None:
    place = [file, *file.parents][up]
    place.chmod(0o777)
    assert "can be written by other users" in untrusted(file, "")
    if place.is_dir() and up > 1:
        place.chmod(0o1777)  # as /tmp: others may add, not replace
        assert untrusted(file, "") == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")
@pytest.mark.parametrize("up", [0, 1, 2])
def test_what_belongs_to_somebody_else_does_not(file: Path, up: int) -> None:
    os.chown([file, *file.parents][up], 65534, 65534)
    assert "belongs to another user" in untrusted(file, "")


def test_a_changed_file_and_a_link_do_not(file: Path) -> None:
    digest = sha256_file(file)
    file.write_bytes(b"evil")
    assert "digest differs" in untrusted(file, digest)
    file.rename(file.with_name("other"))
    assert "cannot be read" in untrusted(file, digest)
    file.symlink_to("other")
    assert "is a link" in untrusted(file, digest)


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="no dpkg here")
def test_the_newest_package_is_taken_and_must_be_what_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    abi = ABIS["aarch64"]
    folder = downloads_folder(abi)
    folder.mkdir(parents=True)
    for name in DEBIAN_PACKAGES:
        for version in ("2.36-9+deb12u9", "2.36-9+deb12u14", "1%3a2.36-1~rc1", "1%3a2.36-1"):
            path = folder / f"{name}_{version}_{abi.debian}.deb"
            path.write_bytes(version.encode())
            path.chmod(0o644)
    found = cached_packages(abi)
    assert all("_1%3a2.36-1_" in path.name for path in found)
    for path in folder.glob("*_1%3a*"):
        path.unlink()
    assert all("deb12u14" in path.name for path in cached_packages(abi))
    record_of(cached_packages(abi)[0]).write_text("0" * 64)
    with pytest.raises(Missing, match="digest differs"):
        cached_packages(abi)
