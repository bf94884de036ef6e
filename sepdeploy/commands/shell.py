"""What every command shares: common flags, their effect, and how its result is given."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from sepdeploy import console
from sepdeploy.commands.flags import signature_of

VERBOSE = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on standard error.")]
QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="Say only errors on standard error.")]
DEBUG = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]
SEED = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]

JSON = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="[FILE]", help="Write JSON to FILE; '-' or nothing: standard output."
    ),
]

ARCH = Annotated[
    str | None, typer.Option("--arch", help="package.module:factory of your own network.")
]

_COMMON: dict[str, tuple[Any, Any]] = {
    "seed": (SEED, 0),
    "verbose": (VERBOSE, False),
    "quiet": (QUIET, False),
    "debug": (DEBUG, False),
}


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--seed``, ``-v``, ``-q`` and ``--debug`` to a command's signature and apply them.

    A command that draws nothing at random accepts ``--seed`` and has no use for it, so that
    scripts can give it everywhere.
    """
    signature = signature_of(function)
    takes_seed = "seed" in signature.parameters
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=kind)
        for name, (kind, value) in _COMMON.items()
        if not (name == "seed" and takes_seed)
    ]

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        verbose, quiet = kwargs.pop("verbose"), kwargs.pop("quiet")
        kwargs.pop("debug")  # read in sepdeploy.cli.run
        if not takes_seed:
            kwargs.pop("seed")
        console.VERBOSITY.level = int(verbose) - int(quiet)
        target = kwargs.get("json")
        if isinstance(target, str):
            _check_target(target)
        return function(*args, **kwargs)

    parameters = [*signature.parameters.values(), *extra]
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


def _check_target(target: str) -> None:
    """Refuse a ``--json FILE`` that cannot be written before hours of work are spent on it."""
    from sepdeploy.files import check_writable

    if target != "-":
        check_writable(Path(target))


def give(record: Any, json: str | None, draw: Callable[[], Any] | None = None) -> None:
    """Give a command's result: drawn on standard output unless JSON goes there, and as JSON.

    Args:
        record: The result, with its schema.
        json: What ``--json`` said: a file, "-" for standard output, or None.
        draw: Returns what is shown to people.
    """
    if json != "-" and draw is not None:
        console.show(draw())
    if json is None:
        return
    from sepdeploy.codec import dump
    from sepdeploy.files import write_text

    if json == "-":
        console.write(dump(record))
    else:
        write_text(Path(json), dump(record))
