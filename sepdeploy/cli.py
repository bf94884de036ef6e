"""The command line: the table of commands, and how one of them is run."""

from __future__ import annotations

import os
import pkgutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from sepdeploy import __version__
from sepdeploy.exits import INTERRUPTED, USAGE, explain, interrupted
from sepdeploy.signals import Interruption

EXIT_CODES = (
    "Exit codes: 0 ok, 1 regression (nothing else ever), 2 usage or bad input, "
    "3 incomparable or nothing measured, 4 device, tool or runtime missing, "
    "5 measurement unstable, 6 artifact check failed, 70 internal error, 130 interrupted "
    "(Ctrl-C), 143 ended by SIGTERM, 129 by SIGHUP."
)

COMPLETION = frozenset({"--install-completion", "--show-completion"})


@dataclass(frozen=True)
class Command:
    """One command: "module:function" in ``commands``, imported late; its line in the list."""

    function: str
    help: str

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        found: Callable[..., Any] = pkgutil.resolve_name(f"sepdeploy.commands.{self.function}")
        return found


COMMANDS: dict[str, Command] = {
    "demo": Command("demo:demo", "Train, export, verify and bench three nets on the digits."),
    "train": Command("train:train", "Train a robust (separable) model."),
    "compress": Command(
        "compress:compress",
        "Project a trained dense model onto a structure, under a budget.",
    ),
    "export": Command("export:export", "Write .onnx and .tflite, proven equal to the model."),
    "verify": Command("verify:verify", "Check that an export is still what its manifest says."),
    "bench": Command("bench:bench", "Measure size, speed and accuracy of exported files."),
    "check": Command("check:check", "Compare a result with the baseline."),
    "compare": Command("results:compare", "Show what differs between results."),
    "report": Command("results:report", "Write what results say as one offline page."),
    "inspect": Command("inspect:inspect", "Show the layers of a .pt, .onnx or .tflite file."),
    "attack": Command("attack:attack", "Make an adversarial set against a model."),
    "doctor": Command("doctor:doctor", "Show what is installed and how to get the rest."),
}

GROUPS: dict[str, tuple[str, dict[str, Command]]] = {
    "baseline": (
        "The baseline of `check`.",
        {
            "update": Command(
                "results:update_baseline",
                "Write or refresh the baseline from a result; review the diff before you "
                "commit it.",
            )
        },
    ),
    "devices": (
        "Device profiles and what emulating them needs.",
        {
            "list": Command("devices:list_devices", "List the known devices."),
            "show": Command("devices:show_device", "Show one device profile."),
            "setup": Command(
                "devices:setup_device",
                "Fetch and build what emulating a device needs; says first what it will download.",
            ),
        },
    ),
}


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sepdeploy {__version__}")
        raise typer.Exit


def build(called: str = "") -> typer.Typer:
    """Return the application; of commands that are not ``called`` it has the names alone."""
    whole = not called or any(name.endswith("_COMPLETE") for name in os.environ)
    app = typer.Typer(
        name="sepdeploy",
        help="Train, export and bench small robust networks that keep their factors.",
        epilog=EXIT_CODES,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", help="Print the version and exit.", callback=_version, is_eager=True
        ),
    ) -> None:
        """Train, export and bench small robust networks that keep their factors."""

    for name, row in COMMANDS.items():
        _add(app, name, row, whole=whole or name == called)
    for group, (text, members) in GROUPS.items():
        sub = typer.Typer(help=text, rich_markup_mode=None)
        for name, row in members.items():
            _add(sub, name, row, whole=whole or group == called)
        app.add_typer(sub, name=group)
    return app


def _add(app: typer.Typer, name: str, row: Command, *, whole: bool) -> None:
    if not whole:
        app.command(name, help=row.help)(lambda: None)
        return
    from sepdeploy.commands.panels import PanelledCommand
    from sepdeploy.commands.shell import command

    app.command(name, cls=PanelledCommand)(command(row.load()))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (len(words) == 1 and words[0] in GROUPS):  # no command: show them all
        return _call([*words, "--help"]) or USAGE
    with Interruption() as interruption:
        try:
            code = _call(words)
        except (KeyboardInterrupt, typer.Abort):
            return interrupted(words[0], interruption.seen or signal.SIGINT)
        except Exception as failure:
            if interruption.seen:
                return interrupted(words[0], interruption.seen)
            return explain(failure, debug="--debug" in words)
        return interrupted(words[0], interruption.seen) if interruption.seen else code


def _call(words: list[str]) -> int:
    try:
        code = build(words[0])(args=words, standalone_mode=False, prog_name="sepdeploy")
    except typer.Exit as stop:
        code = stop.exit_code
    except SystemExit as stop:  # shell completion, or a reader of our output that went away
        if isinstance(stop.__context__, BrokenPipeError):
            raise stop.__context__ from None
        code = stop.code
    if code == 1 and COMPLETION.intersection(words):  # a shell without completion, said by now
        return USAGE
    if code == INTERRUPTED:  # how the parser tells of Ctrl-C
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0
