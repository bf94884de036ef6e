"""Locks and temporary files: held while their owner lives, swept up when it is dead."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sepdeploy.errors import BadInput
from sepdeploy.files import temporary_folder
from sepdeploy.files.claims import Output, claimed
from sepdeploy.files.roles import Writes

ROLE = Writes("a file")
KILLED = """
import os, signal, sys
from pathlib import Path
from sepdeploy.files import atomic_path, temporary_folder
from sepdeploy.files.claims import Output, claimed
from sepdeploy.files.roles import Writes
with claimed([Output(Path("a"), Writes("a file"), "-o")]), atomic_path(Path("a")) as file:
    with temporary_folder(Path(), ".a.export-") as folder:
        file.write_text("half")
        (folder / "x").touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def in_another_thread(path: Path) -> list[BaseException]:
    """Claim a file where the claims of this thread are not known."""
    failures: list[BaseException] = []

    def claim() -> None:
        try:
            with claimed([Output(path, ROLE, "-o")]):
                pass
        except BadInput as error:
            failures.append(error)

    thread = threading.Thread(target=claim)
    thread.start()
    thread.join()
    return failures


def test_a_file_is_claimed_by_one_at_a_time_under_all_its_names(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "a")
    with claimed([Output(tmp_path / "a", ROLE, "-o")]):
        with claimed([Output(link, ROLE, "-o")]):  # who holds it may claim it again
            pass
        (failure,) = in_another_thread(link)
        assert "link is being written by another sepdeploy" in str(failure)
    assert in_another_thread(link) == []
    assert [p.name for p in tmp_path.iterdir()] == ["link"]


def test_what_a_killed_process_left_is_swept_up_and_what_lives_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert done.returncode == -9
    assert len(list(tmp_path.iterdir())) == 3
    mine = tmp_path / ".a.export-mine"
    mine.mkdir()  # not named as ours are
    with temporary_folder(tmp_path, ".a.export-") as living:
        with claimed([Output(Path("a"), ROLE, "-o")]), temporary_folder(tmp_path, ".a.export-"):
            assert living.is_dir()
            left = {p.name for p in tmp_path.glob(".a.*")} - {living.name, mine.name}
            assert len(left) == 2  # the lock and the second folder
        assert living.is_dir()
    assert list(tmp_path.iterdir()) == [mine]


def test_folders_that_a_claim_made_go_when_nothing_came_into_them(tmp_path: Path) -> None:
    for written in (False, True):
        with claimed([Output(tmp_path / "new" / "deep" / "a", ROLE, "-o")]):
            if written:
                (tmp_path / "new" / "deep" / "a").touch()
        assert (tmp_path / "new").exists() is written
