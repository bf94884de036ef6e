"""Every option that writes, against everything that could stand in its place.

Cases come from the table of commands, so a new command or option is held to them at once. What a
command does is replaced by an error of its own: it tells that the files were found to be in order.
"""

from __future__ import annotations

import inspect
import os
import shutil
import stat
import threading
from pathlib import Path

import pytest
from command_table import GIVEN, Line, lines

from sepdeploy import api
from sepdeploy.errors import SepdeployError
from sepdeploy.files.roles import SAID, Reads, Writes

LINES = list(lines())
WRITING = [(line, name) for line in LINES for name in line.writes()]
NAMES = [f"{line} {name}" for line, name in WRITING]
# What goes on where the work would begin; commands that only show something just do it.
BEGUN = 77


class Worked(SepdeployError):
    """The work would have begun."""

    exit_code = BEGUN


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one of everything that a command reads; the commands do nothing."""
    folder = tmp_path / "place"
    (folder / "pictures").mkdir(parents=True)
    for name in ("tiny.tflite", "tiny.eval.npz", "pictures/image", *GIVEN.values()):
        path = folder / name.removeprefix("replay:")
        if not path.is_dir():
            path.touch()

    def worked(*_: object, **__: object) -> None:
        raise Worked("worked", hint="none")

    for name, function in inspect.getmembers(api, inspect.isfunction):
        if function.__module__.startswith(api.__name__) and not name.startswith("_"):
            monkeypatch.setattr(api, name, worked)
    monkeypatch.chdir(folder)
    return folder


def seen(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything in a folder, so that any change shows."""
    found = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(facts.st_mode) else b""
        found[str(path)] = (facts.st_ino, facts.st_mode, facts.st_nlink, content)
    return found


def name_for(role: Writes, stem: str = "out") -> str:
    """A name that says what is written."""
    return stem + (role.suffixes[0] if role.suffixes else "")


@pytest.mark.parametrize("line", LINES, ids=str)
def test_every_option_that_names_a_file_says_what_happens_to_it(line: Line) -> None:
    for name, parameter in line.signature.parameters.items():
        if "Path" in str(parameter.annotation) or name in ("json", "data", "data_dir", "device"):
            assert name in line.roles or line.words[0] == "devices", name
    assert all(name in GIVEN for name in line.reads())
    if line.words[0] != "devices":
        assert "json" in line.writes() or line.words[0] == "report"  # which is its page


@pytest.mark.parametrize(("line", "name"), WRITING, ids=NAMES)
def test_nothing_that_a_command_reads_is_written(line: Line, name: str, place: Path, call) -> None:
    flag, role = line.writes()[name]
    for read in line.reads():
        value = GIVEN[read]
        own = line.roles[read][1]
        assert isinstance(own, Reads)
        for source in own.files(value, {"data_dir": None}):
            if not source.is_file():
                continue
            links = [os.link, lambda a, b: Path(b).symlink_to(Path(a).resolve())]
            for make in links[: 1 if read == "artifacts" else 2]:
                _refused(line, {name: _in_place(source, role, name, make), read: value}, call, flag)
            if not role.folder:
                _refused(line, {name: source, read: value}, call, flag)


def _in_place(source: Path, role: Writes, name: str, make: object) -> Path:
    """Lead what an option would write to a file: by a link whose name looks innocent."""
    folder = Path("linked")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if not role.folder:
        make(source, folder / name_for(role))  # type: ignore[operator]
        return folder / name_for(role)
    for file in ("tiny.onnx", "tiny.manifest.json", "bench.json", "kron.pt"):
        make(source, folder / file)  # type: ignore[operator]
    return folder


def _refused(line: Line, given: dict[str, str | Path], call: object, flag: str) -> None:
    before = seen(Path())
    got = call(*line.typed(**given))  # type: ignore[operator]
    assert got.code == 2, (line.typed(**given), got.code, got.err)
    assert flag in got.line
    assert seen(Path()) == before


@pytest.mark.parametrize(("line", "name"), WRITING, ids=NAMES)
def test_what_is_no_plain_file_stays_what_it_is(line: Line, name: str, place: Path, call) -> None:
    flag, role = line.writes()[name]
    if role.folder:
        (place / "taken").touch()
        _refused(line, {name: "taken"}, call, flag)
        return
    Path("folder").mkdir()
    Path("locked").touch(mode=0o444)
    os.mkfifo("pipe")
    Path("device").symlink_to("/dev/null")
    for taken in ("folder", "locked", "absent/"):
        _refused(line, {name: taken}, call, taken)
    if role.stream:
        reader = threading.Thread(target=lambda: Path("pipe").read_bytes(), daemon=True)
        reader.start()
        for path in ("pipe", "device", "/dev/null", "/dev/fd/2"):
            assert call(*line.typed(**{name: path})).code in (0, BEGUN), path
        if reader.is_alive():  # the work, which would have written, did not begin
            Path("pipe").write_bytes(b"")
        reader.join()
        _refused(line, {name: "/dev/fd/99"}, call, "/dev/fd/99")
    else:
        for path in ("pipe", "device", "/dev/null", "/dev/fd/2"):
            _refused(line, {name: path}, call, path)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert stat.S_ISFIFO(Path("pipe").stat().st_mode)


@pytest.mark.parametrize(("line", "name"), WRITING, ids=NAMES)
def test_a_name_says_what_is_in_the_file(line: Line, name: str, place: Path, call) -> None:
    flag, role = line.writes()[name]
    turn = WRITING.index((line, name))
    for end in (*SAID, *SAID)[turn % len(SAID) :][:4]:  # each name meets some of the options
        if role.folder or (role.suffixes and end not in role.suffixes):
            _refused(line, {name: f"other{end}"}, call, flag)
    for end in ("", ".weird", *role.suffixes):
        if not (role.folder and end in SAID):
            before = seen(place)
            got = call(*line.typed(**{name: f"new/deep/own{end}"}))
            assert got.code in (0, BEGUN), got.err
            if got.code == BEGUN:
                assert seen(place) == before  # no lock and no folder stays of what did not happen
            shutil.rmtree("new", ignore_errors=True)


@pytest.mark.parametrize("line", [x for x in LINES if len(x.writes()) > 1], ids=str)
def test_no_two_outputs_meet(line: Line, place: Path, call) -> None:
    names = list(line.writes())
    for number, one in enumerate(names):
        for other in names[:number]:
            _, role = line.writes()[one]
            _, second = line.writes()[other]
            ends = set(role.suffixes) & set(second.suffixes) or {""}
            if not (role.folder or second.folder):
                same = f"same{min(ends)}"
                _refused(line, {one: same, other: f"./{same}"}, call, "both write")
                _refused(line, {one: "same", other: "same/inner"}, call, "is to lie in it")
    written = [n for n, (_, role) in line.writes().items() if role.folder]
    for folder in written:
        taken = {"export": "tiny.manifest.json", "demo": "bench.json"}[str(line)]
        _refused(line, {folder: "made", "json": f"made/{taken}"}, call, "--json")


@pytest.mark.parametrize(("line", "name"), WRITING, ids=NAMES)
def test_a_folder_that_cannot_be_had_is_said_at_once(
    line: Line, name: str, place: Path, call
) -> None:
    _, role = line.writes()[name]
    for folder in ("/proc/nowhere", "tiny.pt"):
        _refused(line, {name: f"{folder}/{name_for(role)}"}, call, folder)
