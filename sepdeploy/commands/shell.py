"""What every command shares: common flags, their effect, and how its result is given."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.models import OptionInfo

from sepdeploy import console
from sepdeploy.api import Seeded
from sepdeploy.commands.flags import parameters, signature_of
from sepdeploy.files.claims import command_claimed
from sepdeploy.files.roles import Reads, Writes
from sepdeploy.settings import filled, setting
from sepdeploy.signals import launched_rank

if TYPE_CHECKING:
    from sepdeploy.training import Event


@dataclass(frozen=True)
class CommonOptions(Seeded):
    """What every command accepts.

    One that draws nothing at random has no use for ``--seed``, but scripts can give it everywhere.
    """

    verbose: bool = setting(False, "Say more on standard error.", flags=("--verbose", "-v"))
    quiet: bool = setting(False, "Say only errors on standard error.", flags=("--quiet", "-q"))
    debug: bool = setting(False, "Show the traceback of a failure.")


JSON = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="[FILE]", help="Write JSON to FILE; '-' or nothing: standard output."
    ),
    Writes("JSON", (".json",), lambda v, _: [] if v in (None, "-") else [Path(v)], stream=True),
]

STANDARD_OUTPUT = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the ``CommonOptions`` that a command lacks to its signature and apply them."""
    signature = signature_of(function)
    roles = roles_of(signature)
    extra = [p for p in parameters(CommonOptions) if p.name not in signature.parameters]

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        given = {p.name: kwargs.pop(p.name) for p in extra}
        common = filled(CommonOptions(), given, "the command line")  # debug: read in cli.run
        console.VERBOSITY.level = int(common.verbose) - int(common.quiet)
        if kwargs.get("json") in STANDARD_OUTPUT:
            kwargs["json"] = "-"
        if launched_rank():  # the first of several processes writes for all of them
            return function(*args, **kwargs)
        with command_claimed(roles, kwargs):
            return function(*args, **kwargs)

    wrapped.roles = roles  # type: ignore[attr-defined]
    every = [*signature.parameters.values(), *extra]
    wrapped.__signature__ = signature.replace(parameters=every)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in every}
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


def _draw(line: console.Progress, event: Event, *, lasting: bool) -> None:
    if event.kind != "detail" or console.VERBOSITY.level > 0:
        line.update(str(event), force=lasting and event.lasting)


@contextmanager
def progress(*, lasting: bool = True) -> Iterator[Callable[[Event], None]]:
    """Give what shows the events of a training; the unfinished line goes with the block.

    Args:
        lasting: Whether what is more than a step stays visible.
    """
    line = console.Progress()
    try:
        yield lambda event: _draw(line, event, lasting=lasting)
    finally:
        line.clear()


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
