"""The command line: the table of commands, and the one place where errors become exit codes."""

from __future__ import annotations

import os
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
    demo,
    devices,
    doctor,
    export,
    inspect,
    train,
    verify,
)
from sepdeploy.commands.shell import command
from sepdeploy.errors import SepdeployError

EXIT_CODES = (
    "Exit codes: 0 ok, 1 regression (nothing else ever), 2 usage or bad input, "
    "3 incomparable or nothing measured, 4 device, tool or runtime missing, "
    "5 measurement unstable, 6 artifact check failed, 70 internal error, 130 interrupted."
)

COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo.demo,
    "train": train.train,
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
        no_args_is_help=True,
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
        app.command(name)(command(function))
    for group, (text, members) in GROUPS.items():
        sub = typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None)
        for name, function in members.items():
            sub.command(name)(command(function))
        app.add_typer(sub, name=group)
    return app


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; never raises for an expected failure."""
    from sepdeploy import console

    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        code = build()(args=words, standalone_mode=False, prog_name="sepdeploy")
    except SepdeployError as failure:
        if debug:
            raise
        console.error(failure.message, failure.hint)
        return failure.exit_code
    except typer.Exit as stop:
        return int(stop.exit_code)
    except SystemExit as stop:  # shell completion ends the interpreter itself
        return stop.code if isinstance(stop.code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        console.error("interrupted", "nothing half-written was left behind")
        return 130
    except BrokenPipeError:
        # The reader of our output went away (`| head`); keep the interpreter from complaining.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as failure:
        if hasattr(failure, "format_message"):  # a usage error of the argument parser
            where = getattr(failure, "ctx", None)
            path = where.command_path if where is not None else "sepdeploy"
            console.error(failure.format_message(), f"{path} --help")
            return 2
        if debug:
            raise
        console.error(
            f"internal error: {type(failure).__name__}: {failure}",
            "run the same command with --debug and report the traceback",
        )
        return 70
    return code if isinstance(code, int) else 0


def main() -> None:
    """Entry point of the ``sepdeploy`` script."""
    sys.exit(run())
