"""How a command line ends: no command, odd terminals, full disks, Ctrl-C at awkward moments."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sepdeploy import __main__, api, cli
from sepdeploy.errors import BadInput, Missing
from sepdeploy.exits import explain
from sepdeploy.signals import Interruption

TOOL = (sys.executable, "-m", "sepdeploy")


def tool(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TOOL, *map(str, words)], capture_output=True, text=True, timeout=60, **options
    )


@pytest.mark.parametrize("words", [(), ("devices",), ("baseline",)])
def test_no_command_shows_all_of_them_line_by_line(call, words: tuple[str, ...]) -> None:
    got = call(*words)
    assert got.code == 2
    assert got.err == ""
    assert got.out.splitlines()[0].startswith("Usage: sepdeploy")
    assert len(got.out.splitlines()) > 5


def test_commands_are_described_in_whole_sentences(call) -> None:
    got = call("--help")
    listed = got.out.partition("Commands:")[2].partition("Exit codes")[0]
    assert len(listed.splitlines()) > 9
    assert "..." not in listed


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_option_says_what_it_is_for(call, command: str) -> None:
    got = call(command, "--help")
    assert got.code == 0
    options = got.out.partition("Options:")[2]
    bare = [
        line
        for line, after in zip(options.splitlines(), [*options.splitlines()[1:], ""], strict=True)
        if line.startswith("  -") and "  " not in line.strip() and not after.startswith("     ")
    ]
    assert not bare


def test_a_json_file_that_cannot_be_written_is_refused_before_the_work(
    call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("worked first")

    monkeypatch.setattr(api, "bench", never)
    assert call("bench", "--json", tmp_path).code == 2
    assert "is a folder" in call("bench", "--json", tmp_path).line
    assert call("bench", "--json", "/proc/nowhere/x.json").code == 2


def test_a_model_file_that_is_a_folder_is_refused_before_training(
    call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sepdeploy.workflows.training.fit", None)
    got = call("train", "--epochs", "1", "-o", tmp_path)
    assert got.code == 2
    assert "is a folder" in got.line
    assert not list(tmp_path.parent.glob("*.training.pt"))


def test_a_full_disk_behind_standard_output_is_one_line(exported: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*TOOL, "inspect", str(exported / "tiny.onnx"), "--json"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: the system refused: No space left on device")


def test_a_reader_that_goes_away_is_no_failure(exported: Path) -> None:
    process = subprocess.Popen(
        [*TOOL, "inspect", str(exported / "tiny.onnx")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == 0


def test_a_terminal_without_unicode_still_gets_its_table(exported: Path) -> None:
    done = tool(
        "inspect", exported / "tiny.onnx", env=os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    )
    assert done.returncode == 0, done.stderr
    assert "8?8 ? 8?8" in done.stdout


def test_ctrl_c_before_the_command_line_is_there_leaves_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", press)
    with pytest.raises(SystemExit) as end:
        __main__.main()
    assert end.value.code == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_main_softens_only_a_strict_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    err = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(cli, "run", lambda: 3)
    with pytest.raises(SystemExit) as end:
        __main__.main()
    assert end.value.code == 3
    assert (out.errors, err.errors) == ("replace", "backslashreplace")


def test_ctrl_c_that_a_library_turns_into_its_own_error_is_still_an_interruption(
    call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swallow(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            message = "module 'x' has no attribute 'y'"
            raise AttributeError(message) from None

    monkeypatch.setattr(api, "diagnose", swallow)
    got = call("doctor")
    assert got.code == 130
    assert got.line == "error: interrupted"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


LOST = """
import os, signal, sys, time
from pathlib import Path
from sepdeploy import api, cli
from sepdeploy.exports.staging import move_all

class Careless:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)

def swallow(*_, **__):
    careless = Careless()
    del careless  # an exception in a destructor is printed and dropped
    print("went on")

def tidy(*_, **__):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    finally:
        time.sleep(0.8)
        print("tidied up", flush=True)

def impatient(*_, **__):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
        print("tidied up", flush=True)

class Slow:
    def __del__(self):
        time.sleep(0.6)
        print("released", flush=True)

def release(*_, **__):
    slow = Slow()
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)

def move(*_, **__):
    plain = Path.replace
    def slowly(self, target):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        return plain(self, target)
    Path.replace = slowly
    move_all(Path("staged"), Path("out"), last="m.manifest.json")
    print("went on", flush=True)

chosen = {"swallow": swallow, "tidy": tidy, "release": release, "move": move,
          "impatient": impatient}
api.diagnose = chosen[sys.argv[1]]
sys.exit(cli.run(["doctor"]))
"""


def test_a_ctrl_c_that_was_lost_is_told_when_the_command_ends() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOST, "swallow"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 130
    assert "error: interrupted" in done.stderr
    assert "went on" in done.stdout


def test_a_second_ctrl_c_ends_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOST, "impatient"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -signal.SIGINT
    assert "tidied up" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("how", "said"), [("tidy", "tidied up"), ("release", "released")])
def test_cleaning_up_after_ctrl_c_is_not_interrupted(how: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOST, how], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 130
    assert said in done.stdout
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr


def test_files_that_appear_together_do_so_before_ctrl_c_is_heard(tmp_path: Path) -> None:
    names = ["a.onnx", "b.tflite", "m.manifest.json"]
    for folder in ("staged", "out"):
        (tmp_path / folder).mkdir()
    for name in names:
        (tmp_path / "staged" / name).write_text("new")
    done = subprocess.run(
        [sys.executable, "-c", LOST, "move"], capture_output=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 130
    assert b"went on" not in done.stdout
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names


def test_ctrl_c_inside_text_a_library_executes_ends_with_our_exit_code(tmp_path: Path) -> None:
    program = """
import sepdeploy.__main__ as process
import sepdeploy.cli as line

def run():
    try:
        exec("raise KeyboardInterrupt")
    except KeyboardInterrupt:
        return 130

line.run = run
process.main()
"""
    (tmp_path / "pressed.py").write_text(program)
    search = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-m", "pressed"], env=search, timeout=60)
    assert done.returncode == 130  # and not -2, killed by the signal


def test_an_interrupted_training_names_the_way_on(call, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "train", press)
    got = call("train")
    assert got.code == 130
    assert "--resume" in got.err


def test_an_interrupted_fine_tuning_names_the_way_on(call, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "compress", press)
    got = call("compress", "model.pt")
    assert got.code == 130
    assert "--resume" in got.err


def test_one_of_several_processes_says_that_they_were_interrupted(
    call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "train", press)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", "1")
    got = call("train")
    assert (got.code, got.err) == (130, "")
    monkeypatch.setenv("RANK", "0")
    assert "interrupted" in call("train").err


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert not interruption.seen
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interruption_that_a_destructor_lost_is_raised_again(
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Interrupted:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def lose() -> None:
        Interrupted()
        time.sleep(20)

    lost = sys.unraisablehook
    with Interruption() as interruption:
        with pytest.raises(KeyboardInterrupt):
            lose()
        assert interruption.seen == signal.SIGINT
    assert sys.unraisablehook == lost
    assert capfd.readouterr().err == ""


def test_a_lost_interruption_does_not_outlive_what_it_ends() -> None:
    class Ended:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    with Interruption() as interruption:
        Ended()
    time.sleep(0.2)  # by now SIGTERM is deadly again
    assert interruption.seen == signal.SIGTERM


def test_interruptions_are_left_alone_outside_the_main_thread() -> None:
    failures: list[BaseException] = []

    def enter() -> None:
        try:
            with Interruption():
                pass
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert not failures


@pytest.mark.parametrize(
    ("failure", "code", "says"),
    [
        (BadInput("no", hint="do this"), 2, "error: no"),
        (Missing("no", hint="do this"), 4, "error: no"),
        (OSError(28, "No space left on device", "/x"), 2, "No space left on device (/x)"),
        (OSError("odd"), 70, "internal error: OSError: odd"),
        (ValueError("odd\nlines"), 70, "internal error: ValueError: odd lines"),
    ],
)
def test_every_failure_is_one_line_and_a_next_step(
    failure: Exception, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(failure) == code
    first, second = capsys.readouterr().err.splitlines()
    assert says in first
    assert second.startswith("  next: ")
    assert explain(failure, debug=True) == code  # 1 would tell CI of a regression
    assert capsys.readouterr().err.splitlines()[-2:] == [first, second]


def test_debug_shows_the_traceback_but_not_of_a_typing_error(call) -> None:
    got = call("inspect", "nowhere.onnx", "--debug")
    assert got.code == 2
    assert got.err.startswith("Traceback")
    mistyped = call("inspect", "--debug", "--nonsense")
    assert mistyped.code == 2
    assert "Traceback" not in mistyped.err
