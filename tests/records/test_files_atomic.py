"""Files: complete or untouched, never half; nothing left beside them."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepdeploy.errors import BadInput
from sepdeploy.files import (
    atomic_path,
    check_writable,
    open_plain,
    read_bytes,
    sha256_file,
    write_bytes,
    write_text,
)


class _Stop(BaseException):
    """Something that no except clause expects, as an interruption is."""


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, _Stop])
def test_a_failing_block_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")

    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half of the n")
            raise failure

    with pytest.raises(failure):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_new_content_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.txt"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_two_writers_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "a"
    contents = [bytes([n]) * 200_000 for n in range(8)]
    threads = [threading.Thread(target=write_bytes, args=(path, c)) for c in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    for attempt in (write_bytes, lambda p, _: check_writable(p)):
        with pytest.raises(BadInput, match="is a folder"):
            attempt(tmp_path, b"")
    with pytest.raises(BadInput, match="cannot read"):
        read_bytes(tmp_path)
    with pytest.raises(BadInput, match="cannot read"):
        sha256_file(tmp_path)


@pytest.mark.parametrize("path", [Path("/proc/nowhere/x"), Path("/dev/null/x")])
def test_a_place_that_cannot_be_written_is_said_at_once(path: Path) -> None:
    for attempt in (lambda: write_text(path, "x"), lambda: check_writable(path)):
        with pytest.raises(BadInput, match="cannot write") as caught:
            attempt()
        assert caught.value.__cause__ is not None


def test_checking_leaves_nothing_and_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("kept")
    check_writable(path)
    check_writable(tmp_path / "b")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["kept"]


@given(content=st.binary(max_size=64))
def test_reading_gives_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "roundtrip"
    write_bytes(path, content)
    assert read_bytes(path, limit=len(content)) == content
    assert sha256_file(path) == hashlib.sha256(content).hexdigest()


def test_text_is_utf_8_and_large_files_are_digested_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "ε")
    assert (tmp_path / "a").read_bytes() == b"\xce\xb5"
    content = os.urandom((1 << 20) + 17)
    write_bytes(tmp_path / "b", content)
    assert sha256_file(tmp_path / "b") == hashlib.sha256(content).hexdigest()


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    with pytest.raises(BadInput, match="larger than 4 bytes"):
        read_bytes(tmp_path / "a", limit=4)
    with pytest.raises(BadInput, match="No such file"):
        read_bytes(tmp_path / "none", limit=4)


def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    pipe, device = tmp_path / "pipe", tmp_path / "device"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path in (pipe, device):
        for read in (lambda p: read_bytes(p, limit=9), read_bytes, sha256_file, open_plain):
            with pytest.raises(BadInput, match="not a regular file"):
                read(path)


def test_a_limit_counts_what_is_read_not_what_the_system_says(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_bytes(path, limit=5) == b"12345"
    with pytest.raises(BadInput, match="larger than 4 bytes"):
        read_bytes(path, limit=4)
    unsized = Path("/proc/self/status")  # plain, and of size 0 until it is read
    if not unsized.is_file():
        pytest.skip("no /proc here")
    assert read_bytes(unsized, limit=1 << 20).startswith(b"Name:")
    with pytest.raises(BadInput, match="larger than 9 bytes"):
        read_bytes(unsized, limit=9)


def test_a_link_to_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_bytes(tmp_path / "b", limit=2) == b"12"


def test_a_file_larger_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoRoom(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise MemoryError

        def fileno(self) -> int:
            return handle

    (tmp_path / "a").write_bytes(b"1")
    handle = os.open(tmp_path / "a", os.O_RDONLY)
    monkeypatch.setattr("sepdeploy.files.reading.open_plain", lambda path: NoRoom())
    try:
        for limit in (None, 5):
            with pytest.raises(BadInput, match="does not fit in memory"):
                read_bytes(tmp_path / "a", limit=limit)
    finally:
        os.close(handle)
