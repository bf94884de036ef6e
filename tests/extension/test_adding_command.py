"""A new command is a function and a row of ``COMMANDS``; its options are fields of a record."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from sepdeploy import cli, commands, console
from sepdeploy.commands.flags import taking
from sepdeploy.errors import Missing
from sepdeploy.settings import Options, filled, setting


@dataclass(frozen=True)
class GreetOptions(Options):
    """How a toy greets."""

    tone: str = setting("warm", "Of the voice.", choices=("warm", "cold"))
    times: int = setting(1, "Greetings.", low=1, high=3)
    echo: Path | None = setting(None, "File of the echo.")
    loud: bool = setting(False, "Shout.", needs={"echo": ()}, why="nobody else hears it")


@taking(GreetOptions)
def greet(name: Annotated[str, typer.Argument(help="Whom.")], **options: Any) -> int:
    """Greet somebody."""
    wanted = filled(GreetOptions(), options, "greet")
    if name == "nobody":
        raise Missing("nobody is here", hint="greet somebody")
    console.write(f"{wanted.tone} hello {name}\n" * wanted.times)
    return 6 if wanted.tone == "cold" else 0


@pytest.fixture(autouse=True)
def command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sepdeploy.commands.toy", sys.modules[__name__])
    monkeypatch.setattr(commands, "toy", sys.modules[__name__], raising=False)
    row = cli.Command("toy:greet", "Greet somebody.")
    monkeypatch.setitem(cli.COMMANDS, "greet", row)


def test_a_command_runs_and_ends_with_its_code(call: Callable) -> None:
    found = call("greet", "you", "--times", 2, "-q")
    assert (found.code, found.out) == (0, "warm hello you\nwarm hello you\n")
    assert call("greet", "you", "--tone", "cold").code == 6
    missing = call("greet", "nobody")
    assert (missing.code, missing.line) == (4, "error: nobody is here")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tone", "wram"), "unknown tone 'wram'; closest: warm"),
        (("--times", 4), "--times 4 is outside 1 .. 3"),
        (("--times", 0), "--times 0 is outside 1 .. 3"),
        (("--times", "x"), "--times x is not a whole number"),
        (("--seed", "x"), "--seed x is not a whole number"),
        (("--loud",), "--loud needs --echo: nobody else hears it"),
        (("--tine", "warm"), "--tine"),
    ],
)
def test_what_its_options_refuse(call: Callable, words: tuple[object, ...], said: str) -> None:
    found = call("greet", "you", *words)
    assert found.code == 2
    assert said in found.line


@pytest.mark.parametrize("value", [4, "x"])
def test_a_wrong_number_is_answered_with_the_range(call: Callable, value: object) -> None:
    assert "give a whole number in 1 .. 3" in call("greet", "you", "--times", value).err
    assert "give a whole number from 0 on" in call("greet", "you", "--seed", "-1").err


def test_it_is_in_the_help_with_choices_and_defaults(call: Callable) -> None:
    assert "greet" in call("--help").out
    text = " ".join(call("greet", "--help").out.split())
    assert "--tone <str> Of the voice. [warm | cold] [default: warm]" in text
    assert "--times <int> Greetings. [1 .. 3] [default: 1]" in text


@pytest.mark.parametrize(
    "row",
    [*cli.COMMANDS.values(), *(r for _, rows in cli.GROUPS.values() for r in rows.values())],
    ids=lambda row: row.function,
)
def test_the_list_says_what_the_command_says_of_itself(row: cli.Command) -> None:
    said = row.load().__doc__ or ""
    assert row.help == " ".join(said.split("\n\n")[0].split())
