"""The command line: the table of commands, and how one of them is run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

from sepdeploy import __version__
from sepdeploy.commands import (
    attack,
    baseline,
    bench,
    check,
    compress,
    demo,
    devices,
    doctor,
    export,
    inspect,
    train,
    verify,
)
from sepdeploy.commands.panels import PanelledCommand
from sepdeploy.commands.shell import command
from sepdeploy.exits import INTERRUPTED, USAGE, Interruption, explain, interrupted

EXIT_CODES = (
    "Exit codes: 0 ok, 1 regression (nothing else ever), 2 usage or bad input, "
    "3 incomparable or nothing measured, 4 device, tool or runtime missing, "
    "5 measurement unstable, 6 artifact check failed, 70 internal error, 130 interrupted."
)

COMPLETION = frozenset({"--install-completion", "--show-completion"})

COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo.demo,
    "train": train.train,
    "compress": compress.compress,
    "export": export.export,
    "verify": verify.verify,
    "bench": bench.bench,
    "check": check.check,
    "inspect": inspect.inspect,
    "attack": attack.attack,
    "doctor": doctor.doctor,
}

GROUPS: dict[str, tuple[str, dict[str, Callable[..., Any]]]] = {
    "baseline": ("The baseline of `check`.", {"update": baseline.update_baseline}),
    "devices": (
        "Device profiles and what emulating them needs.",
        {
            "list": devices.list_devices,
            "show": devices.show_device,
            "setup": devices.setup_device,
        },
    ),
}


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sepdeploy {__version__}")
        raise typer.Exit


def build() -> typer.Typer:
    """Return the application with every command of the tables above."""
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

    for name, function in COMMANDS.items():
        app.command(name, cls=PanelledCommand)(command(function))
    for group, (text, members) in GROUPS.items():
        sub = typer.Typer(help=text, rich_markup_mode=None)
        for name, function in members.items():
            sub.command(name)(command(function))
        app.add_typer(sub, name=group)
    return app


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (len(words) == 1 and words[0] in GROUPS):  # no command: show them all
        return _call([*words, "--help"]) or USAGE
    with Interruption() as interruption:
        try:
            code = _call(words)
        except (KeyboardInterrupt, typer.Abort):
            return interrupted(words[0])
        except Exception as failure:
            if interruption.seen:
                return interrupted(words[0])
            return explain(failure, debug="--debug" in words)
        return interrupted(words[0]) if interruption.seen else code


def _call(words: list[str]) -> int:
    try:
        code = build()(args=words, standalone_mode=False, prog_name="sepdeploy")
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
