"""What every command shares: common flags, their effect, and how its result is given."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.models import OptionInfo

from sepdeploy import console
from sepdeploy.commands.flags import signature_of
from sepdeploy.errors import BadInput
from sepdeploy.files.claims import command_claimed
from sepdeploy.files.roles import Reads, Writes
from sepdeploy.signals import launched_rank


def seed_of(text: str | int) -> int:
    """Return a seed as it was typed.

    Raises:
        BadInput: It is none.
    """
    if not str(text).isdecimal():
        raise BadInput(f"--seed {text!s:.60} is not a whole number from 0 on", hint="--seed 0")
    return int(text)


VERBOSE = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on standard error.")]
QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="Say only errors on standard error.")]
DEBUG = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]
SEED = Annotated[
    int,
    typer.Option("--seed", parser=seed_of, metavar="<int>", help="Seed of everything random."),
]

JSON = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="[FILE]", help="Write JSON to FILE; '-' or nothing: standard output."
    ),
    Writes("JSON", (".json",), lambda v, _: [] if v in (None, "-") else [Path(v)], stream=True),
]

ARCH = Annotated[
    str | None, typer.Option("--arch", help="package.module:factory of your own network.")
]

STANDARD_OUTPUT = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
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
    roles = roles_of(signature)
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
        if kwargs.get("json") in STANDARD_OUTPUT:
            kwargs["json"] = "-"
        if launched_rank():  # the first of several processes writes for all of them
            return function(*args, **kwargs)
        with command_claimed(roles, kwargs):
            return function(*args, **kwargs)

    wrapped.roles = roles  # type: ignore[attr-defined]
    parameters = [*signature.parameters.values(), *extra]
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


def roles_of(signature: inspect.Signature) -> dict[str, tuple[str, Reads | Writes]]:
    """Return what each option of a command that names files is, and how it is typed."""
    found = {}
    for name, parameter in signature.parameters.items():
        facts = getattr(parameter.annotation, "__metadata__", ())
        words = [
            w
            for f in facts
            if isinstance(f, OptionInfo)
            for w in (f.default, *(f.param_decls or ()))
        ]
        flag = next((w for w in words if isinstance(w, str) and w.startswith("-")), name.upper())
        for role in facts:
            if isinstance(role, (Reads, Writes)):
                found[name] = (flag, role)
    return found


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
    from sepdeploy.files import write_out

    if json == "-":
        console.write(dump(record))
    else:
        write_out(Path(json), dump(record))
