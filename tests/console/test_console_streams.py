"""What goes to which stream: terminals, pipes, quiet and verbose, narrow windows."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator

import pytest

from sepdeploy import console
from sepdeploy.reports.page import Page
from sepdeploy.reports.tables import Table


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _normal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    yield
    console.VERBOSITY.level = 0


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> _Terminal:
    """Called inside a test: pytest puts its own streams back before each one."""
    stream = _Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(("level", "said"), [(-1, ""), (0, "n\n"), (1, "n\n")])
def test_quiet_and_verbose(level: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    console.VERBOSITY.level = level
    console.notice("n")
    assert capsys.readouterr() == ("", said)


def test_an_error_is_said_even_when_quiet_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.VERBOSITY.level = -1
    console.error("what\nhappened", "do\n this")
    console.error("alone")
    assert capsys.readouterr().err == "error: what happened\n  next: do this\nerror: alone\n"


def test_results_go_to_standard_output_alone(capsys: pytest.CaptureFixture[str]) -> None:
    console.write("{}\n")
    console.show("text")
    assert capsys.readouterr() == ("{}\ntext\n", "")


def test_colour_only_on_a_terminal_that_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    console.error("no")
    assert "\x1b[1;31merror: no" in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.truncate(0)
    console.error("[bold]no[/bold]")  # a file's name is never markup
    assert "31m" not in terminal.getvalue()
    assert "[bold]no[/bold]" in terminal.getvalue()


def page() -> Page:
    table = Table(("name", "found"))
    table.add("[bold]a[x].onnx", "FAILED")
    table.add("b", "word " * 60)
    return Page((table,))


@pytest.mark.parametrize(
    ("columns", "most"), [("60", 60), ("100", 100), ("200", 200), ("0", 40), ("wide", 80)]
)
def test_a_table_is_as_wide_as_the_terminal(
    monkeypatch: pytest.MonkeyPatch, columns: str, most: int
) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", columns)
    console.show(page())
    text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert most - 5 <= max(map(len, text.splitlines())) <= most
    assert "[bold]a[x].onnx" in text
    assert "\x1b[1;31mFAILED" in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    console.show(page())
    assert terminal.getvalue().count("31mFAILED") == 1


def test_a_table_in_a_pipe_is_plain(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    console.show(page())
    assert capsys.readouterr().out == str(page())
    assert str(page()).count("\n") == 3


def test_progress_is_redrawn_in_place_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    terminal = open_terminal(monkeypatch)
    progress = console.Progress()
    progress.update("1 %")
    progress.update("2 %")  # too soon to be worth drawing
    clock[0] += 0.2
    progress.update("3 %")
    assert terminal.getvalue() == "\r\x1b[2K1 %\r\x1b[2K3 %"
    progress.update("epoch 1", force=True)
    progress.clear()
    assert terminal.getvalue().endswith("3 %\r\x1b[2Kepoch 1\n")
    clock[0] += 1
    progress.update("4 %")
    progress.clear()
    assert terminal.getvalue().endswith("4 %\r\x1b[2K")


def test_progress_is_a_line_now_and_then_elsewhere(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    progress = console.Progress()
    for step in range(12):
        progress.update(f"step {step}")
        clock[0] += 1
    progress.update("epoch 1", force=True)
    progress.clear()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["step 6", "epoch 1"]


def test_quiet_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    console.VERBOSITY.level = -1
    console.Progress().update("x", force=True)
    assert capsys.readouterr().err == ""
